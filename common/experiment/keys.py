"""Every key of an experiment file, as its dataclasses state it: type, default, meaning.

The meaning is the docstring below a field, so it is read from the source.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from reskd.common.errors import ExperimentError
from reskd.common.experiment.experiment import Experiment

_WORDS: Final = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    type(None): "null",
    Any: "anything",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key."""

    path: str
    """From the top of the file, such as `student.training.optimizer.lr`."""
    type: str
    """In words."""
    default: str
    """As YAML has it; `required` where there is none."""
    meaning: str
    """One paragraph."""


def experiment_keys(below: str = "") -> list[Key]:
    """The keys of an experiment, in the order of its file.

    Args:
        below: Only this key and those below it; empty: all.

    Raises:
        ExperimentError: If there is no such key.
    """
    found = [
        key
        for key in _keys_of(Experiment, "")
        if not below or key.path == below or key.path.startswith(f"{below}.")
    ]
    if not found:
        top = [key.path for key in _keys_of(Experiment, "") if "." not in key.path]
        raise ExperimentError(
            f"An experiment has no key {below!r}. At its top are {', '.join(top)}; "
            "`reskd config keys` lists them all."
        )
    return found


def keys_markdown() -> str:
    """All keys as a page: a table for each section."""
    lines = [
        "# Keys of an experiment",
        "",
        "Made by `reskd config keys --markdown`. A file may leave out whatever has a default, and",
        "`extends` takes the rest from another file.",
    ]
    section = None
    for key in experiment_keys():
        above, _, name = key.path.rpartition(".")
        if above != section:
            section = above
            title = f"`{above}`" if above else "Top"
            lines += [
                "",
                f"## {title}",
                "",
                "| key | type | default | meaning |",
                "|---|---|---|---|",
            ]
        cells = (f"`{name}`", key.type, f"`{key.default}`", key.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _keys_of(kind: type, prefix: str) -> Iterator[Key]:
    """The plain keys of a section, then those of its sections."""
    hints, meanings = get_type_hints(kind, include_extras=True), _meanings(kind)
    sections = []
    for field in fields(kind):
        path = f"{prefix}{field.name}"
        yield Key(path, _described(hints[field.name]), _default(field), meanings[field.name])
        if (inner := _section(hints[field.name])) is not None:
            sections.append((inner, path))
    for inner, path in sections:
        yield from _keys_of(inner, f"{path}.")


def _section(hint: Any) -> type | None:
    """The dataclass in a field's type, if it is a section or may be one."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    if get_origin(hint) in (Union, UnionType):
        return next((kind for part in get_args(hint) if (kind := _section(part))), None)
    return None


def _described(hint: Any) -> str:
    """A type in words."""
    if hint in _WORDS:
        return _WORDS[hint]
    if hasattr(hint, "__metadata__"):
        return _described(hint.__origin__) + _bounds(hint.__metadata__)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_described, parts))
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"list of {_described(parts[0])}"
        return f"{len(parts)} of {_described(parts[0])}"
    if origin is dict:
        return "section of any keys"
    assert is_dataclass(hint), f"{hint} has no words"
    return "section"


def _bounds(metadata: tuple[Any, ...]) -> str:
    words = []
    for part in metadata:
        for bound in getattr(part, "metadata", [part]):
            match bound:
                case Ge():
                    words.append(f"at least {bound.ge}")
                case Gt():
                    words.append(f"above {bound.gt}")
                case Le():
                    words.append(f"at most {bound.le}")
                case Lt():
                    words.append(f"below {bound.lt}")
    return f", {' and '.join(words)}" if words else ""


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return _as_yaml(field.default)
    if field.default_factory is MISSING:
        return "required"
    made = field.default_factory()
    return "see below" if is_dataclass(made) else _as_yaml(made)


def _as_yaml(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(_as_yaml, value))}]"
        case _:
            return str(value)


def _meanings(kind: type) -> dict[str, str]:
    """The docstring below each field, by its name."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    meanings: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                meanings[name] = " ".join(text.split())
    return meanings
