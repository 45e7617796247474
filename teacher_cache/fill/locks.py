"""Who may write a cache: locks in a folder beside it, for equal work must leave equal bytes in it.

| file in NAME.locks | held by | while |
|---|---|---|
| `create` | one, others wait | the teacher is checked and the empty cache is made |
| `cache` | one alone, or all that fill slices together | units are written |
| `slice-3-of-16` | one | it fills that slice |
| `unit-07` | one, others wait | what it wrote of a unit gets its names (unit 7, 71, ...) |

A partial file is removed by who can hold `cache` alone: then no writer of one is left. Where locks
are not to be trusted, and beside the cache, its writer must be known to be gone
(common/storage/partial.py).
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import inf
from pathlib import Path
from typing import Final

from reskd.common.errors import StoppedShortError
from reskd.common.storage.folder_lock import locked
from reskd.common.storage.partial import (
    PARTIAL_SUFFIX,
    clear_dead_partials,
    is_partial_of,
    remove_partial,
)
from reskd.common.storage.system_errors import writing
from reskd.teacher_cache.fill.slices import Slice

LOCKS_SUFFIX: Final = ".locks"
_CACHE: Final = "cache"
_UNIT_LOCKS: Final = 64
_SECONDS_OF_CLEARING: Final = 10.0
_ADVICE: Final = "Wait for it, or stop it and run the same command again; finished units are kept."


@contextmanager
def creator(folder: Path) -> Iterator[None]:
    """Be the one who makes a cache, after whoever else is at it."""
    with _held(folder, "create", task=f"making {folder}", patience=inf) as alone:
        beside = [
            path for path in folder.parent.glob(f"*{PARTIAL_SUFFIX}") if is_partial_of(path, folder)
        ]
        _clear(beside, alone)
        yield


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a cache for this process, and clear what a killed writer left half-written.

    Raises:
        StoppedShortError: If another process is writing this cache.
    """
    with _held(folder, _CACHE, task=f"writing {folder}") as alone:
        _clear(folder.rglob(f"*{PARTIAL_SUFFIX}"), alone)
        yield


@contextmanager
def slice_writer(folder: Path, part: Slice) -> Iterator[None]:
    """Hold one slice of a cache, beside others that hold theirs.

    Raises:
        StoppedShortError: If another process fills that slice, or writes the whole cache.
    """
    name = f"slice-{part.number}-of-{part.count}"
    with _held(folder, name, task=f"filling slice {part} of {folder}"):
        _clear_if_alone(folder)
        with _held(
            folder,
            _CACHE,
            task=f"writing all of {folder}",
            shared=True,
            patience=_SECONDS_OF_CLEARING,
        ):
            yield
        _clear_if_alone(folder)


def unit_writer(folder: Path, unit: int) -> AbstractContextManager[object]:
    """Be the one who gives the files of a unit their names.

    Nobody else can be at it where no process has ever held the cache.
    """
    if not _locks_of(folder).is_dir():
        return nullcontext()
    task = f"writing unit {unit} of {folder}"
    return _held(folder, f"unit-{unit % _UNIT_LOCKS:02}", task=task, patience=inf)


def _held(
    folder: Path, name: str, *, task: str, shared: bool = False, patience: float = 0.0
) -> AbstractContextManager[bool]:
    locks = _locks_of(folder)
    with writing(locks):
        locks.mkdir(parents=True, exist_ok=True)
    return locked(locks / name, task=task, advice=_ADVICE, shared=shared, patience=patience)


def _locks_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCKS_SUFFIX)


def _clear_if_alone(folder: Path) -> None:
    """Clear what killed processes left, if no other one is writing."""
    leftovers = list(folder.rglob(f"*{PARTIAL_SUFFIX}"))
    if not leftovers:
        return
    task = f"clearing what killed processes left in {folder}"
    with suppress(StoppedShortError), _held(folder, _CACHE, task=task) as alone:
        _clear(leftovers, alone)


def _clear(leftovers: Iterable[Path], alone: bool) -> None:
    if alone:
        for leftover in leftovers:
            remove_partial(leftover)
    else:
        clear_dead_partials(leftovers)
