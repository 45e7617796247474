"""Partial files and folders: who writes one is told by its name, so what dead writers left can go.

    model.safetensors.5f0c2a91-4711-88213-9e107d9d.partial

After the final name: eight digits of the host's digest, number and start of the process, and what
makes the name one nobody else takes. A host is a machine since it was started, or a container on
it: only there do process numbers mean anything. A start is the kernel's, in ticks, so a process
that was given the number of a dead one is told from it.
"""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from socket import gethostname
from typing import Final

PARTIAL_SUFFIX: Final = ".partial"
OLD_SECONDS: Final = 24 * 3600.0
"""After a day without a change nobody writes it any more, on whichever host."""
_LONGEST_NAME: Final = 255
"""Bytes, on nearly all file systems."""
_OURS: Final = re.compile(
    r"\.(?:(?P<host>[0-9a-f]{8})-(?P<process>\d+)-(?P<start>\d+)-)?[0-9a-f]{8}\.partial"
)
"""The end of a name; without a writer in versions before."""


def partial_name(path: Path) -> Path:
    """A name beside a path that no other writer takes, on whichever machine or in whose container.

    Process numbers alone would not do: in containers many programs have the same.
    """
    ending = f".{_writer(os.getpid())}-{token_hex(4)}{PARTIAL_SUFFIX}"
    name = os.fsencode(path.name)
    if len(name) <= _LONGEST_NAME:  # of a longer one the system says so
        name = name[: _LONGEST_NAME - len(ending)]
    return path.with_name(os.fsdecode(name) + ending)


def is_partial_of(partial: Path, path: Path) -> bool:
    """Whether something was to become a path."""
    ending = _OURS.search(partial.name, len(path.name))
    return ending is not None and partial.name == path.name + ending[0]


def clear_dead_partials(found: Iterable[Path]) -> None:
    """Remove the partial files and folders whose writers are gone, wherever that can be told.

    A process of this host that has ended is. Of other hosts' and of names without a writer it is
    their age that tells. Whatever is not named as above is left alone.

    Args:
        found: Any paths.
    """
    for path in found:
        ending = _OURS.search(path.name)
        if ending is not None and ending.end() == len(path.name) and _is_dead(path, ending):
            remove_partial(path)


def clear_partials_in(folder: Path) -> None:
    """Remove what dead writers left in a folder and all that are in it."""
    clear_dead_partials(list(folder.rglob(f"*{PARTIAL_SUFFIX}")))


def clear_beside(folder: Path) -> None:
    """Remove what dead writers left in one folder, the first time this process writes there."""
    _clear_once(folder, os.getpid())


@cache
def _clear_once(folder: Path, process: int) -> None:
    with suppress(OSError):  # writing itself will say what is wrong with the folder
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(PARTIAL_SUFFIX)]
        clear_dead_partials(folder / name for name in names)


def remove_partial(path: Path) -> None:
    """Remove a file or a folder that may be gone already."""
    if path.is_dir() and not path.is_symlink():
        rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def is_old(path: Path) -> bool:
    """Whether a file, or all that is in a folder, was last changed longer ago than a day."""
    newest = 0.0
    with suppress(OSError):
        newest = path.lstat().st_mtime
        if path.is_dir():
            newest = max([newest, *(one.lstat().st_mtime for one in path.rglob("*"))])
    return newest > 0 and time.time() - newest > OLD_SECONDS


def _is_dead(path: Path, ending: re.Match[str]) -> bool:
    if ending["host"] == _host():
        return not _lives(int(ending["process"]), int(ending["start"]))
    return is_old(path)


def _lives(process: int, start: int) -> bool:
    """Whether the process of this number that began then is there."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return not start or _start_of(process) in (start, None)


def _start_of(process: int) -> int | None:
    """When a process began, in ticks of the kernel; 0 for one that has ended, None if not told."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:  # not Linux, or another user's and hidden
        return None
    fields = status.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


@cache
def _writer(process: int) -> str:
    """This process, as its partial names have it."""
    return f"{_host()}-{process}-{_start_of(process) or 0}"


@cache
def _host() -> str:
    """Eight digits that stand for this machine since it was started, or this container."""
    known = [gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256("|".join(known).encode("utf-8", "surrogateescape")).hexdigest()[:8]
