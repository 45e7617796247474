"""Files below a folder, also through links to folders, each file and each folder once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

Way = tuple[str, str]
"""A folder as it was reached, perhaps through links, and its path without any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """One folder below the one that was asked for, or that one itself."""

    path: str
    """As it was reached."""
    real: str
    """Without any link."""
    files: dict[str, str]
    """Visible files: their names, and their paths without any link."""
    below: tuple[Way, ...]
    """Folders in it."""
    linked: tuple[Way, ...]
    """Links to folders in it."""


def folders_below(top: Path) -> Iterator[Folder]:
    """A folder and all visible ones below it.

    What lies there itself comes first, then what is linked, so that a file is known by its own
    name where it has one. Links that lead back are not followed.

    Raises:
        OSError: If a folder cannot be read.
    """
    top_real = os.path.realpath(top)
    here: list[Way] = [(os.fspath(top), top_real)]
    linked: list[Way] = []
    seen: set[str] = set()
    while here or linked:
        path, real = here.pop() if here else linked.pop(0)
        # A folder that the top lies in holds everything beside the top, too.
        if real in seen or top_real.startswith(real.rstrip("/") + "/"):
            continue
        folder = _listed(path, real)
        new = {name: target for name, target in folder.files.items() if target not in seen}
        seen.add(real)
        seen.update(new.values())
        here += folder.below
        linked += folder.linked
        yield replace(folder, files=new)


def _listed(path: str, real: str) -> Folder:
    files: dict[str, str] = {}
    file_links: dict[str, str] = {}
    below: list[Way] = []
    linked: list[Way] = []
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        is_link = entry.is_symlink()
        target = os.path.realpath(entry.path) if is_link else f"{real}/{entry.name}"
        if entry.is_dir():
            (linked if is_link else below).append((entry.path, target))
        elif not is_link:
            files[entry.name] = target
        elif target not in file_links.values():
            file_links[entry.name] = target
    own = set(files.values())
    files.update({name: target for name, target in file_links.items() if target not in own})
    return Folder(path=path, real=real, files=files, below=tuple(below), linked=tuple(linked))
