"""Making a packed store: a file per finished video, then shards of them."""

from collections.abc import Mapping
from pathlib import Path

from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.hdf5 import read_shard, write_shard
from reskd.common.dataset.frames.packed import numbered_files
from reskd.common.dataset.frames.pieces import Piece, failed_piece, read_piece, write_piece
from reskd.common.dataset.frames.plan import shard_paths
from reskd.common.dataset.frames.write import Target, refuse_other
from reskd.common.errors import DataError
from reskd.common.storage.atomic_write import PARTIAL_SUFFIX, sync_folder


class PackedSink:
    """Shards: a file per finished video, then one HDF5 of them.

    Raises:
        DataError: If other files are in the place of the store's.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._paths = shard_paths(target.path, len(target.groups))
        self.work = target.path.with_name(f"{target.path.name}{PARTIAL_SUFFIX}")
        numbered = [
            shard_paths(target.path, count)[number]
            for count, number in numbered_files(target.path)
            if count > 1 and number < count
        ]
        self._closed: set[int] = set()
        for file in [target.path, *numbered]:
            if not file.exists():
                continue
            shard = read_shard(file)
            refuse_other(file, shard.plan, target.plan)
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
        target, path = self._target, self._paths[group]
        places = target.groups[group]
        partial = self.work / f"shard{PARTIAL_SUFFIX}"
        write_shard(
            partial,
            [self._read(place, failures) for place in places],
            number=group,
            plan=target.plan,
            software=target.software,
        )
        partial.replace(path)
        sync_folder(path.parent)
        self._closed.add(group)
        for place in places:
            self._piece(place).unlink(missing_ok=True)

    def _piece(self, place: int) -> Path:
        return self.work / f"{place:07d}.video"

    def _read(self, place: int, failures: Mapping[int, str]) -> Piece:
        if place in failures:
            return failed_piece(self._target.ids[place], failures[place])
        return read_piece(self._piece(place))
