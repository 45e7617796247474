"""Read rows of a finished cache: what stage two sees of stage one.

Each shard's index is checked once; a row is then one preadv into the caller's buffer and one
checksum, which must be that of its place (expected_checksums.py). Files are opened when first
needed in a process and read by position, so a reader may be used after fork, sent to another
process, and used by several threads at once. `with` closes them.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from reskd.common.errors import CacheError, StoppedShortError
from reskd.teacher_cache.format.commits import Commit, check_commits, failures, read_commits
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.format.row_checksums import table_of
from reskd.teacher_cache.read.expected_checksums import BoundRows, TableInMemory
from reskd.teacher_cache.read.open_files import OpenFiles
from reskd.teacher_cache.read.packed_rows import PackedRows
from reskd.teacher_cache.read.places import RowPlaces
from reskd.teacher_cache.read.rows import DirectRows, ReadPart, RowError, Rows, ZarrRows

READ_THREADS = 4
"""Threads that read a large batch, the calling one included."""
PARALLEL_BYTES = 1 << 20
"""A batch of fewer bytes is read by the calling thread: handing it out would take longer."""
PARALLEL_ROW_BYTES = 1 << 16
"""The same for smaller rows, for which threads would mostly wait for the interpreter's lock."""

Numbers = Sequence[int] | NDArray[np.int64]


class CacheReader:
    """Rows of one cache, by view and video number.

        with CacheReader("cache") as reader:
            videos = reader.usable_videos[:32]
            views = [0] * len(videos)
            logits_BK = reader.gather("logits", views, videos, reader.empty("logits", len(videos)))

    `manifest` says which arrays there are, with the shape and type of a row, and how many views and
    videos; `failed` holds the reason for every video that has no rows. An extension that is still
    being written does not exist yet: the reader shows the cache as it was before.

    Args:
        folder: The cache.
        checksums: Compare every row with its crc32c; the way without is there to be measured.
        direct: Read rows without zarr-python.

    Raises:
        CacheError: If there is no cache, or one of its records is damaged.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, checksums: bool = True, direct: bool = True
    ) -> None:
        self.folder = folder = Path(folder)
        self._checksums, self._direct = checksums, direct
        manifest = read_manifest(folder)
        units = [manifest.units_of(one) for one in manifest.generations]
        written = [
            read_commits(folder, one.number, own)
            for one, own in zip(manifest.generations, units, strict=True)
        ]
        finished = 1
        while finished < len(written) and len(written[finished]) == len(units[finished]):
            finished += 1
        for commits in written:
            check_commits(folder, manifest, commits.values())
        self.manifest: Manifest = manifest.upto(finished)
        self.commits: dict[int, Commit] = {}
        """Of each unit that of the run which brought its videos; what extended it is complete."""
        brought = 0
        for commits, own in zip(written[:finished], units, strict=False):
            self.commits |= {unit: commits[unit] for unit in commits if unit >= brought}
            brought = max(brought, own.stop)
        self.failed: dict[int, str] = failures(
            commit for commits in written[:finished] for commit in commits.values()
        )
        """Videos that could not be read, with the reason; they have no rows."""
        objects = {
            key: stored
            for commits in written[:finished]
            for commit in commits.values()
            for key, stored in commit.objects.items()
        }
        self._sizes: dict[str, int] = {key: stored.bytes for key, stored in objects.items()}
        tables = tuple(f"{table.name}/" for table in self.manifest.tables)
        self._summed = {key: stored for key, stored in objects.items() if key.startswith(tables)}
        self._places = RowPlaces(self.manifest.layout)
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = Lock()
        self._files = OpenFiles()
        self._rows: dict[str, Rows] = {}
        self._tables: dict[str, TableInMemory] = {}
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Close every file; the next `gather` opens those it needs again."""
        if self._pool is not None:
            self._pool.shutdown()
        self._files.close()
        self._reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        own = {"_process", "_lock", "_files", "_rows", "_tables", "_pool"}
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def missing_units(self) -> list[int]:
        """Units without a commit record."""
        return [unit for unit in range(self.manifest.layout.num_units) if unit not in self.commits]

    @cached_property
    def usable_videos(self) -> list[int]:
        """Numbers of the videos that have rows."""
        return np.flatnonzero(self._has_rows).tolist()

    @cached_property
    def _has_rows(self) -> NDArray[np.bool_]:
        layout = self.manifest.layout
        has_rows = np.zeros(layout.extent, bool)
        for unit in self.commits:
            videos = layout.videos_of(unit)
            has_rows[videos.start : videos.stop] = True
        has_rows[list(self.failed)] = False
        return has_rows

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

    def gather(self, name: str, views: Numbers, videos: Numbers, out: NDArray[Any]) -> NDArray[Any]:
        """Read a batch of rows.

        Args:
            name: Array to read.
            views: View number of each row.
            videos: Video number of each row.
            out: Where to put them, see `empty`; contiguous, filled in place.

        Returns:
            `out`.

        Raises:
            CacheError: If a row does not exist, belongs to a failed video, or its checksum is
                wrong; the message names cache, array, unit, view and video.
            ValueError: If `out` has another shape or type.
        """
        array = self.manifest.array(name)
        view_numbers, video_numbers = np.asarray(views, np.int64), np.asarray(videos, np.int64)
        expected = (len(video_numbers), *array.row_shape)
        if out.shape != expected or out.dtype != array.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be contiguous, {array.dtype} of shape {expected}, "
                f"got {out.dtype} of shape {out.shape}"
            )
        try:
            self._check_exist(view_numbers, video_numbers)
            rows = self._rows_of(name)
            with self._files.reading():
                read = rows.prepare(view_numbers, video_numbers, out)
                self._in_threads(read, len(out), out.nbytes)
        except RowError as error:
            view, video = int(view_numbers[error.row]), int(video_numbers[error.row])
            raise CacheError(
                f"Cache {self.folder}, array {name}, unit {self.manifest.layout.locate(video)[0]}: "
                f"the row of view {view}, video {video} {error.problem}. "
                f"`reskd cache verify {self.folder}` lists everything that is wrong."
            ) from error.__cause__
        return out

    def expect(self, names: Sequence[str], view: int, videos: Numbers) -> None:
        """Have rows of one view read into the system's memory, without waiting for them.

        A disk that is slow at random then reads a run of rows in one go. What cannot be read is
        told by `gather`.
        """
        video_numbers = np.asarray(videos, np.int64)
        view_numbers = np.full_like(video_numbers, view)
        try:
            self._check_exist(view_numbers, video_numbers)
            for name in names:
                rows = self._rows_of(name)
                with self._files.reading():
                    rows.expect(view_numbers, video_numbers)
        except RowError:
            return

    def _check_exist(self, views: NDArray[np.int64], videos: NDArray[np.int64]) -> None:
        layout = self.manifest.layout
        outside = (views < 0) | (views >= layout.num_views)
        outside |= (videos < 0) | (videos >= layout.extent)
        if outside.any():
            raise RowError(
                int(outside.argmax()),
                f"does not exist: the cache has {layout.num_views} views of {layout.extent} videos",
            )
        absent = ~self._has_rows[videos]
        if absent.any():
            row = int(absent.argmax())
            raise RowError(row, self._why_absent(int(videos[row])))

    def _why_absent(self, video: int) -> str:
        if (reason := self.failed.get(video)) is not None:
            return f"was never written, its video could not be read: {reason}"
        layout = self.manifest.layout
        if video not in layout.videos_of(layout.locate(video)[0]):
            return "does not exist: no video has this number, later ones began at a new unit"
        return "belongs to a unit that was never finished"

    def _rows_of(self, name: str) -> Rows:
        if self._process != os.getpid():  # after fork: threads and locks did not come along
            self._reset()
        if name not in self._rows:
            with self._lock:
                self._rows.setdefault(name, self._open_rows(name))
        return self._rows[name]

    def _open_rows(self, name: str) -> Rows:
        array, layout = self.manifest.array(name), self.manifest.layout
        own = self.folder, array, self._places, layout, self._sizes
        bound = self._bound_rows(name)
        if not self._direct:
            return ZarrRows(*own, bound=bound)
        kind = DirectRows if self.manifest.codec == "none" else PackedRows
        return kind(*own, self._files, checksums=self._checksums, bound=bound)

    def _bound_rows(self, name: str) -> BoundRows | None:
        """The checksums of an array's rows by their places; None in a cache without."""
        found = table_of(name, self.manifest.tables)
        if found is None:
            return None
        table, column = found
        if table.name not in self._tables:
            self._tables[table.name] = TableInMemory(
                self.folder, table, self.manifest.layout, self._summed
            )
        return BoundRows(self._tables[table.name], column)

    def _in_threads(self, read: ReadPart, count: int, num_bytes: int) -> None:
        """Read a batch; a large one by the calling thread and helpers."""
        if num_bytes < PARALLEL_BYTES or num_bytes < PARALLEL_ROW_BYTES * count:
            read(range(count))
            return
        if self._pool is None:  # two threads may both make one; the loser's is simply dropped
            self._pool = ThreadPoolExecutor(READ_THREADS - 1, "cache-reader")
        # One iterator for all: whoever is free takes the next row, so that none waits for a thread
        # that lost its processor. Taking from it is one step under the interpreter's lock.
        rows = iter(range(count))
        helpers = [self._pool.submit(read, rows) for _ in range(READ_THREADS - 1)]
        try:
            read(rows)
        finally:
            wait(helpers)  # also after an error: nothing may still write into the buffer
        for helper in helpers:
            helper.result()
