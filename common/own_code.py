"""Code of the user's, by name: networks, losses and readers that are no part of this package.

A name is an import path, `package.module:attribute`, or that of an entry point which an installed
package has in the group `reskd.KIND`. An import path can name anything Python can call, so it is
followed only where the user has written it: in the experiment or on the command line. One that
stands in a run or a cache is refused until the same name was given there, or `--trust-code`.
"""

import os
import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal

from reskd.common.errors import ExperimentError

CodeKind = Literal["recognizers", "losses", "readers"]
ANY_NAME: Final = "*"
"""Trusting this trusts all names."""
_trusted: set[str] = set()


def trust_code(*names: str) -> Callable[[], None]:
    """Let Python code that runs and caches name be run: networks, losses and readers of your own.

    Args:
        names: Such as `mypackage.module:build`; `*` is any.

    Returns:
        What takes the trust back that was new.

    Raises:
        ExperimentError: If a name is empty.
    """
    if not all(names):
        raise ExperimentError("a name of code is empty; write package.module:attribute")
    new = set(names) - _trusted
    _trusted.update(new)
    return lambda: _trusted.difference_update(new)


def is_import_path(name: str) -> bool:
    """Whether a name is an import path, not that of an entry point."""
    return ":" in name


def own_code(kind: CodeKind, name: str) -> Callable[..., Any]:
    """What a name stands for; it is called by whoever asked for it.

    Modules are looked for where Python looks, and in the current folder after that.

    Raises:
        ExperimentError: If the name is not trusted, or nothing callable has it.
    """
    found = _imported(kind, name) if is_import_path(name) else _installed(kind, name)
    if not callable(found):
        raise ExperimentError(
            f"{name} is {type(found).__name__}, and a function or a class is wanted."
        )
    return found  # type: ignore[no-any-return]  # whatever it returns is checked by who calls it


def _imported(kind: CodeKind, name: str) -> Any:
    if not _trusted & {name, ANY_NAME}:
        raise ExperimentError(
            f"The code {name} is named by what was read, not by you, so it is not run. If you know "
            "what it does, say so with --trust-code, from Python with "
            f"reskd.trust_code({name!r}), or name an experiment that has it."
        )
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        found: Any = import_module(module_name)
    except ImportError as error:
        raise ExperimentError(
            f"Cannot import {module_name} of {name}: {error}. Install it, or put its folder in "
            f"PYTHONPATH or into the current one ({here})."
        ) from error
    except Exception as error:
        raise ExperimentError(
            f"Importing {module_name} of {name} fails: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(found, "__file__", None) or module_name
            raise ExperimentError(f"There is no {part!r} in {where}, which {name} names.")
        found = getattr(found, part)
    return found


def _installed(kind: CodeKind, name: str) -> Any:
    group = f"reskd.{kind}"
    points = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        raise ExperimentError(
            f"{name!r} is neither an import path (package.module:attribute) nor an entry point of "
            f"the group {group}; installed are {', '.join(sorted(points)) or 'none'}."
        )
    try:
        return points[name].load()
    except Exception as error:
        raise ExperimentError(
            f"The entry point {name} of {group} ({points[name].value}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def source_digest(code: Callable[..., Any], parts: Iterable[type] = ()) -> str:
    """Hexadecimal sha256 of the source files of some code.

    Args:
        code: A function or a class; its module's file counts.
        parts: Classes it has made use of; files of the same package count, those of libraries are
            their versions' affair.
    """
    home = code.__module__
    package = home.partition(".")[0]
    names = {home, *(part.__module__ for part in parts)}
    total = sha256()
    for name in sorted(name for name in names if name.partition(".")[0] == package):
        path = getattr(sys.modules.get(name), "__file__", None)
        total.update(f"{name}|".encode())
        total.update(b"" if path is None else sha256(Path(path).read_bytes()).digest())
    return total.hexdigest()
