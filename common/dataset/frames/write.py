"""Where finished videos go while a store is being made, and whose work in progress that is."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.plan import plan_difference
from reskd.common.errors import CacheError, DataError
from reskd.common.storage.atomic_write import PARTIAL_SUFFIX
from reskd.common.storage.records import read_record, write_record

PLAN_FILE: Final = "plan.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A store to make."""

    path: Path
    plan: Mapping[str, Any]
    software: Mapping[str, str]
    ids: Sequence[str]
    """Videos in order."""

    @property
    def groups(self) -> list[range]:
        """Places of the videos of each shard."""
        ends = [0]
        for count in self.plan["shards"]:
            ends.append(ends[-1] + count)
        return [range(first, end) for first, end in pairwise(ends)]


class Sink(Protocol):
    """A store in the making. `put` may be called from several threads at once."""

    work: Path
    """Folder of what is not finished; it is gone when the store is."""

    def is_closed(self, group: int) -> bool:
        """Whether all of a group's videos are in the store."""

    def holds(self, place: int) -> bool:
        """Whether an earlier run finished this video of a group that is not closed."""

    def put(self, place: int, video: KeptVideo) -> None:
        """Make and keep one video, whole or not at all."""

    def close_group(self, group: int, failures: Mapping[int, str]) -> None:
        """Bring the finished videos of a group into the store."""


def begin(sink: Sink, plan: Mapping[str, Any]) -> None:
    """Note what is being made, and clear what a killed run left half-written.

    Raises:
        DataError: If another plan was begun here.
    """
    path = sink.work / PLAN_FILE
    for leftover in sink.work.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif leftover.suffix == PARTIAL_SUFFIX:
            leftover.unlink()
    if path.exists():
        try:
            refuse_other(sink.work, read_record(path), plan)
        except CacheError as error:
            raise DataError(f"{error} Remove {sink.work} to begin anew") from error
    else:
        write_record(path, dict(plan))


def end(sink: Sink) -> None:
    """Remove the work folder of a finished store."""
    shutil.rmtree(sink.work)


def refuse_other(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Frames made in another way are neither mixed with ours nor replaced by them.

    Raises:
        DataError: If two plans differ.
    """
    if (difference := plan_difference(found, wanted)) is not None:
        raise DataError(
            f"{path} belongs to other frames: {difference}. Ask for the same as then, name another "
            "--out, or remove it and the files beside it"
        )
