"""Experiment files: YAML, `extends`, overrides, and errors that name the line to change."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from reskd.common.console import in_lines
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment
from reskd.common.own_code import trust_code
from reskd.common.parsing.json_text import parse_json, read_bounded
from reskd.common.parsing.problems import problem_text
from reskd.common.parsing.shown import shortened, shown
from reskd.common.parsing.yaml_text import MOST_CHARACTERS, parse_yaml
from reskd.common.storage.system_errors import input_problem

Tree = dict[str, Any]

_EXPERIMENT: Final = TypeAdapter(Experiment)  # building one takes longer than reading the file


def load_experiment(
    name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> Experiment:
    """Read, merge, override and check an experiment.

    Paths inside a file are relative to that experiment's file, paths in an override to the current
    folder, and so are paths of the files in `configs/` (they are installed with the package).

    Args:
        name_or_path: A YAML file, or the name of one in `configs/` such as `actnet/r152_to_r50`.
        overrides: Texts `key.path=value`, value in YAML; the last one wins.

    Returns:
        The resolved experiment, frozen: everything it extends merged, every default filled in.
        Code of the user's that it names may be run from now on (common/own_code.py).

    Raises:
        ExperimentError: If the file is missing or not YAML, if `extends` runs in a circle, or if
            a key is unknown or a value not allowed; the message names the key's path.
    """
    path, base = _locate(os.fspath(name_or_path))
    tree = _absolute_paths(_load_layers(path, ()), base)
    for text in overrides:
        tree = _merge(tree, parse_override(text))
    experiment = parse_experiment(tree, source=str(path), overrides=overrides)
    trust_code(*experiment.code_names)
    return experiment


def parse_experiment(
    tree: Mapping[str, Any], *, source: str, overrides: Sequence[str] = ()
) -> Experiment:
    """Check a nested mapping; `source` names it in error messages, beside the overrides in it."""
    try:
        return _EXPERIMENT.validate_python(dict(tree))
    except ValidationError as error:
        found = [(dict(item), _override_behind(dict(item), overrides)) for item in error.errors()]
        problems = [
            f"  {_explain(item)}{f' It is from -o {text}' if text else ''}" for item, text in found
        ]
        what = (
            f"-o does not fit {source}"
            if all(text for _, text in found)
            else f"{source} does not describe an experiment"
        )
        raise ExperimentError(
            in_lines(
                f"{what}:",
                *problems,
                "`reskd config show EXPERIMENT` prints a whole one; common/experiment explains "
                "each key.",
            )
        ) from error


def experiment_tree(experiment: Experiment) -> Tree:
    """The resolved experiment as plain JSON values (paths as text)."""
    tree: Tree = parse_json(json.dumps(asdict(experiment), default=str))
    return tree


def experiment_yaml(experiment: Experiment) -> str:
    """The resolved experiment as YAML in the order of the specs."""
    return yaml.safe_dump(experiment_tree(experiment), sort_keys=False, allow_unicode=True)


def config_names() -> list[str]:
    """Names of the installed experiments, without the bases they extend."""
    root = Path(str(files("reskd.configs")))
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return sorted(name for name in names if not any(part[0] == "_" for part in name.split("/")))


def _locate(name_or_path: str) -> tuple[Path, Path]:
    """Find the file, and the folder its relative paths start from."""
    path = Path(name_or_path)
    if path.is_file():
        return path.resolve(), path.resolve().parent
    names = config_names()
    if name_or_path in names:
        return Path(str(files("reskd.configs"))) / f"{name_or_path}.yaml", Path.cwd()
    if beside := _files_named_like(path):
        raise ExperimentError(f"There is no file {path}. Did you mean {beside[0]}?")
    near = get_close_matches(name_or_path, names, n=3)
    hint = f" Close names: {', '.join(near)}." if near else ""
    raise ExperimentError(
        f"No experiment {name_or_path!r}: it is no file and none of the installed ones.{hint} "
        f"Installed experiments: {', '.join(names) or 'none'}."
    )


def _files_named_like(path: Path) -> list[Path]:
    """YAML files in the same folder with nearly the name of one that is not there."""
    if not path.parent.is_dir():
        return []
    beside = {file.name: file for file in sorted(path.parent.glob("*.y*ml")) if file.is_file()}
    same_stem = [file for file in beside.values() if file.stem in (path.name, path.stem)]
    near = get_close_matches(path.name, beside, n=1, cutoff=0.8)
    return same_stem or [beside[name] for name in near]


def _load_layers(path: Path, chain: tuple[Path, ...]) -> Tree:
    """The merged tree of a file and everything it extends; later ones win, the file itself last."""
    path = path.resolve()
    if path in chain:
        circle = " -> ".join(str(step) for step in (*chain, path))
        raise ExperimentError(f"`extends` runs in a circle: {circle}. Remove one of these links.")
    tree = _read_yaml(path, chain)
    parents = tree.pop("extends", [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ExperimentError(
            f"{path}: extends must be a list of file names, got {shown(parents)}. "
            "Write `extends: [../_base_/tsn.yaml]`."
        )
    merged: Tree = {}
    for parent in parents:
        merged = _merge(merged, _load_layers(path.parent / parent, (*chain, path)))
    return _merge(merged, tree)


def _read_yaml(path: Path, chain: tuple[Path, ...]) -> Tree:
    named_by = f" (named in extends of {chain[-1]})" if chain else ""
    try:
        tree = parse_yaml(read_bounded(path, 4 * MOST_CHARACTERS).decode("utf-8-sig"))
    except OSError as error:
        raise ExperimentError(f"Cannot read {path}{named_by}: {input_problem(error)}.") from error
    except ValueError as error:
        raise ExperimentError(
            f"{path}{named_by} is not YAML that an experiment can be read from: "
            f"{problem_text(error, 1000)}"
        ) from error
    if not isinstance(tree, dict):
        raise ExperimentError(
            f"{path}{named_by} holds {type(tree).__name__}, not a mapping of sections such as "
            "data, clip, views, teacher and student."
        )
    return tree


def _merge(below: Tree, above: Mapping[str, Any]) -> Tree:
    """Deep merge: mappings are merged key by key, anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def parse_override(text: str) -> Tree:
    """`key.path=value` as a nested mapping; its paths start from the current folder.

    Raises:
        ExperimentError: If it is not of that form, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise ExperimentError(
            f"Override {shortened(text, 200)!r} is not of the form key.path=value, for example "
            "-o student.training.epochs=50."
        )
    try:
        node: Any = parse_yaml(value)
    except ValueError as error:
        raise ExperimentError(
            f"The value of override {shortened(text, 200)!r} is not YAML: {problem_text(error)}"
        ) from error
    for part in reversed(key.split(".")):
        node = {part: node}
    return _absolute_paths(node, Path.cwd())


def _absolute_paths(tree: Tree, base: Path) -> Tree:
    """Resolve the path fields that a layer sets against the folder that layer speaks from."""
    for *parents, leaf in PATH_KEYS:
        node: Any = tree
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(leaf), str):
            node[leaf] = str((base / _home_found(node[leaf])).absolute())
    return tree


def _home_found(text: str) -> Path:
    """A path whose `~` or `~name` is that person's folder.

    Raises:
        ExperimentError: If there is nobody of that name.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ExperimentError(
            f"The path {shown(text)} begins with a person's home that is not known here. Write "
            "the folder in full, or ./~ for a file of that name."
        ) from error


def _path_keys(spec: type) -> Iterator[tuple[str, ...]]:
    """Key paths of all fields of type Path below a spec."""
    hints = get_type_hints(spec)
    for item in fields(spec):
        for kind in _alternatives(hints[item.name]):
            if kind is Path:
                yield (item.name,)
            elif isinstance(kind, type) and is_dataclass(kind):
                yield from ((item.name, *rest) for rest in _path_keys(kind))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)


PATH_KEYS = tuple(_path_keys(Experiment))


def _override_behind(problem: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """The last override that set the key of a finding; empty if the file did."""
    location = [str(part) for part in problem["loc"]]
    for text in reversed(overrides):
        key = text.partition("=")[0].split(".")
        unknown = problem["type"] in ("unexpected_keyword_argument", "dataclass_type")
        if location[: len(key)] == key or (unknown and key[: len(location)] == location):
            return text
    return ""


def _explain(problem: Mapping[str, Any]) -> str:
    """One line for one finding of pydantic: the key's path, what was got, what is allowed."""
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] == "unexpected_keyword_argument":
        near = get_close_matches(location[-1], _known_keys(location[:-1]), n=1)
        return f"{path}: unknown key." + (f" Did you mean {near[0]!r}?" if near else "")
    if problem["type"] in ("missing", "missing_argument"):
        return f"{path}: required key is missing."
    if problem["type"] == "dataclass_type":
        keys = ", ".join(_known_keys(location))
        return f"{path}: must be a mapping of {keys}; got {shown(problem['input'])}."
    got = shown(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path or 'experiment'}: {message}{f' (got {got})' if len(got) < 60 else ''}"


def _known_keys(location: Sequence[str]) -> list[str]:
    spec: Any = Experiment
    for part in location:
        hint = get_type_hints(spec).get(part) if is_dataclass(spec) else None
        spec = next((kind for kind in _alternatives(hint) if is_dataclass(kind)), None)
    return [item.name for item in fields(spec)] if spec is not None else []
