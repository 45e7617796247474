"""Where finished videos go while a store is being made: into folders of images or into shards."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.folders import RECORD_FILE, image_name
from reskd.common.dataset.frames.hdf5 import read_shard
from reskd.common.dataset.frames.packed import numbered_files
from reskd.common.dataset.frames.plan import plan_difference, shard_paths
from reskd.common.dataset.frames.tables import StoredFacts
from reskd.common.dataset.frames.write_shard import (
    failed_piece,
    read_piece,
    write_piece,
    write_shard,
)
from reskd.common.errors import CacheError, DataError
from reskd.common.storage.atomic_write import sync_folder
from reskd.common.storage.partial import PARTIAL_SUFFIX
from reskd.common.storage.records import read_record, write_record

PLAN_FILE: Final = "plan.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStore:
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
            _refuse_other(sink.work, read_record(path), plan)
        except CacheError as error:
            raise DataError(f"{error} Remove {sink.work} to begin anew") from error
    else:
        write_record(path, dict(plan))


def _refuse_other(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Frames made in another way are neither mixed with ours nor replaced by them.

    Raises:
        DataError: If two plans differ.
    """
    if (difference := plan_difference(found, wanted)) is not None:
        raise DataError(
            f"{path} belongs to other frames: {difference}. Ask for the same as then, name another "
            "--out, or remove it and the files beside it"
        )


class FolderSink:
    """Folders of images, one group; each is filled under another name and renamed when whole.

    Raises:
        DataError: If the folder holds something else, or ids cannot be names of folders.
    """

    def __init__(self, store: NewStore) -> None:
        self._store = store
        self.work = store.path / PARTIAL_SUFFIX
        self._record = store.path / RECORD_FILE
        _refuse_ids(store.ids)
        if self._record.exists():
            try:
                _refuse_other(self._record, read_record(self._record)["plan"], store.plan)
            except CacheError as error:
                raise DataError(str(error)) from error
        elif store.path.exists() and not self.work.exists() and any(store.path.iterdir()):
            raise DataError(
                f"{store.path} is not empty and no frame store; name a new folder with --out"
            )

    def is_closed(self, group: int) -> bool:
        return self._record.exists()

    def holds(self, place: int) -> bool:
        """Whether record and folder are there, and every image is as long as it was written."""
        folder, note = self._folder(place), self._note(place)
        if not note.exists() or not folder.is_dir():
            return False
        suffix = self._store.plan["image_format"]
        sizes = read_record(note)["sizes"]
        wanted = {image_name(number, suffix): size for number, size in enumerate(sizes)}
        whole = {file.name: file.stat().st_size for file in folder.iterdir()} == wanted
        if not whole:  # after a power cut; the folder is ours, the record says so
            shutil.rmtree(folder)
        return whole

    def put(self, place: int, video: KeptVideo) -> None:
        folder, filled = self._folder(place), self.work / f"{place:07d}"
        if folder.exists() and not self._note(place).exists():
            raise DataError(f"{folder} is there already and not from this run; name a new --out")
        filled.mkdir()
        suffix, sizes = self._store.plan["image_format"], []
        try:
            for number, image in enumerate(video.images()):
                (filled / image_name(number, suffix)).write_bytes(image)
                sizes.append(len(image))
        except BaseException:
            shutil.rmtree(filled, ignore_errors=True)
            raise
        write_record(self._note(place), {"facts": asdict(video.facts), "sizes": sizes})
        folder.parent.mkdir(parents=True, exist_ok=True)
        filled.replace(folder)

    def close_group(self, group: int, failures: Mapping[int, str]) -> None:
        facts = [
            asdict(StoredFacts(id=video_id, failure=failures[place]))
            if place in failures
            else read_record(self._note(place))["facts"]
            for place, video_id in enumerate(self._store.ids)
        ]
        os.sync()  # millions of images at once, instead of each by itself
        write_record(
            self._record,
            {
                "plan": dict(self._store.plan),
                "software": dict(self._store.software),
                "videos": facts,
            },
        )
        for place in range(len(facts)):
            self._note(place).unlink(missing_ok=True)

    def _folder(self, place: int) -> Path:
        return self._store.path / self._store.ids[place]

    def _note(self, place: int) -> Path:
        return self.work / f"{place:07d}.json"


def _refuse_ids(ids: Sequence[str]) -> None:
    """Folders must lie below the root, and no video's inside another's."""
    taken = {RECORD_FILE, PARTIAL_SUFFIX, *ids}
    for video_id in ids:
        parts = Path(video_id).parts
        if not parts or ".." in parts or Path(video_id).is_absolute():
            raise DataError(f"video id {video_id!r} cannot be the name of a folder of images")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if above & taken or video_id in (RECORD_FILE, PARTIAL_SUFFIX):
            raise DataError(
                f"the folder of video {video_id!r} would lie inside that of another video, or in "
                "the place of our own files; use --layout packed"
            )


class PackedSink:
    """Shards: a file per finished video, then one HDF5 of them.

    Raises:
        DataError: If other files are in the place of the store's.
    """

    def __init__(self, store: NewStore) -> None:
        self._store = store
        self._groups = store.groups
        self._paths = shard_paths(store.path, len(self._groups))
        self.work = store.path.with_name(f"{store.path.name}{PARTIAL_SUFFIX}")
        self._closed: set[int] = set()
        numbered = [
            shard_paths(store.path, count)[number]
            for count, number in numbered_files(store.path)
            if count > 1 and number < count
        ]
        for file in filter(Path.exists, [store.path, *numbered]):
            shard = read_shard(file)
            _refuse_other(file, shard.plan, store.plan)
            if self._paths[shard.number] != file:
                raise DataError(f"{file} was renamed, it is {self._paths[shard.number].name}")
            self._closed.add(shard.number)

    def is_closed(self, group: int) -> bool:
        return group in self._closed

    def holds(self, place: int) -> bool:
        return self._piece(place).exists()

    def put(self, place: int, video: KeptVideo) -> None:
        write_piece(self._piece(place), video)

    def close_group(self, group: int, failures: Mapping[int, str]) -> None:
        path, places = self._paths[group], self._groups[group]
        pieces = [
            failed_piece(self._store.ids[place], failures[place])
            if place in failures
            else read_piece(self._piece(place))
            for place in places
        ]
        partial = self.work / f"shard{PARTIAL_SUFFIX}"
        write_shard(
            partial,
            pieces,
            number=group,
            plan=self._store.plan,
            software=self._store.software,
        )
        partial.replace(path)
        sync_folder(path.parent)
        self._closed.add(group)
        for place in places:
            self._piece(place).unlink(missing_ok=True)

    def _piece(self, place: int) -> Path:
        return self.work / f"{place:07d}.video"
