"""Read rows of a finished cache: what stage two sees of stage one.

Each shard's index is parsed once; a row is one preadv into the caller's buffer and one checksum.
Files are opened when first needed in a process and read by position, so a reader may be used after
fork, sent to another process, and used by several threads at once.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.distill.arrays import ArraySpec
from common.errors import CacheError, StoppedShortError
from teacher_cache.commits import Commit, read_commits
from teacher_cache.layout import CRC_BYTES, object_key
from teacher_cache.manifest import Manifest, read_manifest
from teacher_cache.shard import crc32c, parse_index

READ_THREADS = 4

Shard = tuple[int, NDArray[np.uint64]]


class CacheReader:
    """Rows of one cache, by view and video number.

    Args:
        folder: The cache.

    Raises:
        CacheError: If there is no cache, or one of its records is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self.commits: dict[int, Commit] = read_commits(folder, self.manifest.layout.num_units)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = Lock()
        self._shards: dict[tuple[str, int], Shard] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("folder", "manifest", "commits")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def missing_units(self) -> list[int]:
        """Units without a commit record."""
        return [unit for unit in range(self.manifest.layout.num_units) if unit not in self.commits]

    @cached_property
    def failed(self) -> dict[int, str]:
        """Videos that could not be read, with the reason; they have no rows."""
        return {
            video: why for commit in self.commits.values() for video, why in commit.failed.items()
        }

    @cached_property
    def usable_videos(self) -> list[int]:
        """Numbers of the videos that have rows."""
        layout = self.manifest.layout
        videos = (video for unit in self.commits for video in layout.videos_of(unit))
        return sorted(video for video in videos if video not in self.failed)

    def require_complete(self) -> None:
        """Refuse a cache that is still being written.

        Raises:
            StoppedShortError: If units are missing; the message lists them.
        """
        missing = self.missing_units
        if missing:
            listed = ", ".join(map(str, missing[:20])) + (", …" if len(missing) > 20 else "")
            raise StoppedShortError(
                f"{self.folder} is incomplete: {len(missing)} of "
                f"{self.manifest.layout.num_units} units are missing ({listed}). Run "
                "`reskd cache-teacher` again to finish it, or train on what is there with "
                "--allow-incomplete."
            )

    def empty(self, name: str, count: int) -> NDArray[Any]:
        """A buffer for `gather`: (count, *row_shape) of the array's type."""
        array = self.manifest.array(name)
        return np.empty((count, *array.row_shape), array.dtype)

    def gather(
        self, name: str, views: Sequence[int], videos: Sequence[int], out: NDArray[Any]
    ) -> NDArray[Any]:
        """Read a batch of rows.

        Args:
            name: Array to read.
            views: View number of each row.
            videos: Video number of each row.
            out: Where to put them, see `empty`; filled in place.

        Returns:
            `out`.

        Raises:
            CacheError: If a row does not exist, belongs to a failed video, or its checksum is
                wrong; the message names cache, array, unit, view and video.
        """
        array = self.manifest.array(name)
        if out.shape != (len(videos), *array.row_shape) or out.dtype != np.dtype(array.dtype):
            raise ValueError(
                f"out must be {array.dtype} of shape {(len(videos), *array.row_shape)}, "
                f"got {out.dtype} of shape {out.shape}"
            )
        rows = out.reshape(len(videos), -1).view(np.uint8)

        def read(part: slice) -> None:
            for view, video, row in zip(views[part], videos[part], rows[part], strict=True):
                self._read_row(array, int(view), int(video), row)

        step = -(-len(videos) // READ_THREADS) or 1
        parts = [slice(start, start + step) for start in range(0, len(videos), step)]
        if len(parts) == 1:
            read(parts[0])
        else:
            list(self._threads().map(read, parts))
        return out

    def _threads(self) -> ThreadPoolExecutor:
        if self._process != os.getpid():  # after fork: threads and locks did not come along
            self._reset()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="cache-reader")
        return self._pool

    def _read_row(self, array: ArraySpec, view: int, video: int, row: NDArray[np.uint8]) -> None:
        unit, place = self.manifest.layout.locate(video)
        if video in self.failed:
            raise self._error(array, unit, view, video, f"has no row: {self.failed[video]}")
        descriptor, index = self._shard(array, unit, view, video)
        offset, length = (int(number) for number in index[view, place])
        if length != array.row_bytes + CRC_BYTES:
            raise self._error(array, unit, view, video, f"has {length} bytes in the index")
        stored = bytearray(CRC_BYTES)
        got = os.preadv(descriptor, [row.data, stored], offset)
        if got != length:
            raise self._error(array, unit, view, video, f"ends after {got} of {length} bytes")
        if crc32c(row) != int.from_bytes(stored, "little"):
            raise self._error(array, unit, view, video, "does not have the checksum it was given")

    def _shard(self, array: ArraySpec, unit: int, view: int, video: int) -> Shard:
        if self._process != os.getpid():
            self._reset()
        key = (array.name, unit)
        if key not in self._shards:
            with self._lock:
                if key not in self._shards:
                    self._shards[key] = self._open_shard(array, unit, view, video)
        return self._shards[key]

    def _open_shard(self, array: ArraySpec, unit: int, view: int, video: int) -> Shard:
        layout = self.manifest.layout
        if unit not in self.commits:
            raise self._error(array, unit, view, video, "belongs to a unit that was never finished")
        path = self.folder / object_key(array, unit)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._error(array, unit, view, video, f"cannot be read: {error}") from error
        size, expected = os.fstat(descriptor).st_size, layout.object_bytes(array, unit)
        if size != expected:
            os.close(descriptor)
            raise self._error(
                array, unit, view, video, f"lies in {path}, {size} bytes long instead of {expected}"
            )
        raw = os.pread(descriptor, layout.index_bytes(), size - layout.index_bytes())
        try:
            return descriptor, parse_index(raw, layout)
        except ValueError as error:
            os.close(descriptor)
            raise self._error(array, unit, view, video, f"lies in {path}: {error}") from error

    def _error(
        self, array: ArraySpec, unit: int, view: int, video: int, problem: str
    ) -> CacheError:
        return CacheError(
            f"Cache {self.folder}, array {array.name}, unit {unit}: the row of view {view}, video "
            f"{video} {problem}. `reskd cache verify {self.folder}` lists everything that is wrong."
        )
