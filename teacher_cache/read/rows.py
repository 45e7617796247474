"""Two ways to the rows of one array: our own, which is fast, and zarr-python's, which knows more.

Both give the same bytes, check the same checksums and refuse the same damage.
"""

import os
import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec
from reskd.teacher_cache.format.layout import CRC_BYTES, Layout, object_key
from reskd.teacher_cache.format.shard import crc32c, parse_index

Numbers = NDArray[np.int64]
ReadPart = Callable[[Iterable[int]], None]
"""Reads some rows of a prepared batch, by their place in it; may run in several threads at once."""
CLOSED = -1
"""In a table of descriptors."""
PIECE_BYTES = 1 << 18
"""Read and summed at a time; fits into a core's own cache together with its source."""


class RowError(Exception):
    """One row of a batch cannot be read."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row
        """Its place in the batch."""
        self.problem = problem


class Rows(Protocol):
    """Rows of one array."""

    def prepare(self, views: Numbers, videos: Numbers, out: NDArray[Any]) -> ReadPart:
        """Open what a batch needs; `out` is (B, *row_shape), contiguous.

        Raises:
            RowError: If an object is missing or damaged. The returned function raises it too.
        """

    def expect(self, views: Numbers, videos: Numbers) -> None:
        """Have the system read rows ahead, where that is possible.

        Raises:
            RowError: If an object is missing or damaged.
        """


MOST_OPEN_FILES = 1 << 16
"""Descriptors a process asks for; some systems allow a thousand million, which helps nobody."""


def raise_open_file_limit() -> int:
    """Let this process open as many files as it is allowed to ask for; returns how many.

    The soft limit is 1024 on most systems, for programs that call select(); a cache of Kinetics-400
    has ten thousand objects. The hard limit stays as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS allows fewer than it says; the soft limit still holds
        return soft
    return wanted


class OpenFiles:
    """File descriptors of shard objects, at most half of what the process may have.

    The oldest are closed when nobody is reading.
    """

    def __init__(self) -> None:
        self._opened: deque[tuple[Numbers, int]] = deque()
        self._limit = raise_open_file_limit() // 2
        self._lock = Lock()
        self._reading = 0

    def keep(self, descriptor: int, table: Numbers, place: int) -> None:
        """Put an open file into a caller's table."""
        with self._lock:
            if table[place] != CLOSED:  # another thread was faster
                os.close(descriptor)
                return
            table[place] = descriptor
            self._opened.append((table, place))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While it lasts, no descriptor is closed."""
        with self._lock:
            self._reading += 1
        try:
            yield
        finally:
            with self._lock:
                self._reading -= 1
                if not self._reading:
                    self._close_down_to(self._limit)

    def close(self) -> None:
        """Close all; nobody may be reading."""
        with self._lock:
            self._close_down_to(0)

    def __del__(self) -> None:
        self._close_down_to(0)  # without the lock: after a fork it may be held for ever

    def _close_down_to(self, kept: int) -> None:
        while len(self._opened) > kept:
            table, place = self._opened.popleft()
            os.close(int(table[place]))
            table[place] = CLOSED


class DirectRows:
    """Rows that were written uncompressed to local files: one preadv each.

    Args:
        folder: The cache.
        array: Which array.
        layout: Of the cache.
        sizes: Committed bytes of each object, by path.
        files: Shared by all arrays.
        checksums: Compare every row with its crc32c.
    """

    def __init__(
        self,
        folder: Path,
        array: ArraySpec,
        layout: Layout,
        sizes: dict[str, int],
        files: OpenFiles,
        *,
        checksums: bool,
    ) -> None:
        self._folder, self._array, self._layout = folder, array, layout
        self._sizes, self._files, self._checksums = sizes, files, checksums
        self._row_bytes = array.row_bytes
        self._descriptors = np.full(layout.num_blocks * layout.num_units, CLOSED, np.int64)
        padded = layout.num_blocks * layout.block_views, layout.num_units * layout.unit_videos
        self._offsets = np.full(padded, -1, np.int64)

    def prepare(self, views: Numbers, videos: Numbers, out: NDArray[Any]) -> ReadPart:
        descriptors, offsets = self._places(views, videos)
        rows = out.reshape(len(out), -1).view(np.uint8)
        if self._checksums:
            return lambda part: _read_checked(part, descriptors, offsets, rows)
        return lambda part: _read(part, descriptors, offsets, rows)

    def expect(self, views: Numbers, videos: Numbers) -> None:
        """Rows that lie together are one request."""
        if not hasattr(os, "posix_fadvise"):
            return
        descriptors, offsets = map(np.array, self._places(views, videos))
        order = np.lexsort((offsets, descriptors))
        files, starts, width = descriptors[order], offsets[order], self._row_bytes + CRC_BYTES
        apart = (np.diff(files) != 0) | (np.diff(starts) != width)
        for run in np.split(np.arange(len(order)), np.flatnonzero(apart) + 1):
            first, last = run[0], run[-1]
            length = int(starts[last] - starts[first]) + width
            os.posix_fadvise(int(files[first]), int(starts[first]), length, os.POSIX_FADV_WILLNEED)

    def _places(self, views: Numbers, videos: Numbers) -> tuple[list[int], list[int]]:
        """Open file and offset of each row."""
        shards = views // self._layout.block_views * self._layout.num_units
        shards += videos // self._layout.unit_videos
        descriptors = self._descriptors[shards].tolist()
        if CLOSED in descriptors:
            descriptors = self._open_all(shards)
        return descriptors, self._offsets[views, videos].tolist()

    def _open_all(self, shards: Numbers) -> list[int]:
        """Open what is closed among some objects, named row by row; their descriptors."""
        for row in np.flatnonzero(self._descriptors[shards] == CLOSED):
            if self._descriptors[shards[row]] == CLOSED:  # no row before it has opened it
                self._open(int(shards[row]), int(row))
        opened: list[int] = self._descriptors[shards].tolist()
        return opened

    def _open(self, shard: int, row: int) -> None:
        """Open one object, and parse its index if this process has not done so before."""
        block, unit = divmod(shard, self._layout.num_units)
        key = object_key(self._array, block, unit)
        try:
            descriptor = os.open(self._folder / key, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise RowError(row, f"cannot be read: {error}") from error
        try:
            self._take_index(descriptor, block, unit, self._sizes[key])
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise RowError(row, f"lies in {key}: {error}") from error
        self._files.keep(descriptor, self._descriptors, shard)

    def _take_index(self, descriptor: int, block: int, unit: int, expected: int) -> None:
        size, tail = os.fstat(descriptor).st_size, self._layout.index_bytes()
        if size != expected:
            raise ValueError(f"it is {size} bytes long instead of {expected}")
        views, videos = self._layout.views_of(block), self._layout.videos_of(unit)
        if self._offsets[views.start, videos.start] >= 0:
            return  # only its descriptor had been closed
        index = parse_index(os.pread(descriptor, tail, size - tail), self._layout)
        there = index[: len(views), : len(videos)]
        if (there[..., 1] != self._row_bytes + CRC_BYTES).any():
            raise ValueError("its index has rows of other lengths")
        self._offsets[views.start : views.stop, videos.start : videos.stop] = there[..., 0]


def _read_checked(
    part: Iterable[int], descriptors: list[int], offsets: list[int], rows: NDArray[np.uint8]
) -> None:
    """Read rows with the checksums behind them."""
    width, tail = rows.shape[1], bytearray(CRC_BYTES)
    for row in part:
        data, descriptor, offset = rows[row], descriptors[row], offsets[row]
        start = total = 0
        # A long row comes in pieces: each is summed while it is still in the processor's cache.
        while width - start > PIECE_BYTES:
            piece = data[start : start + PIECE_BYTES]
            # A short read leaves the last one without its bytes, or the checksum wrong.
            os.preadv(descriptor, (piece,), offset + start)
            total, start = crc32c(piece, total), start + PIECE_BYTES
        if start:
            data = data[start:]
        got = os.preadv(descriptor, (data, tail), offset + start)
        if got != width - start + CRC_BYTES:
            raise RowError(row, f"ends after {start + got} of {width + CRC_BYTES} bytes")
        if crc32c(data, total) != int.from_bytes(tail, "little"):
            raise RowError(row, "does not have the checksum it was given")


def _read(
    part: Iterable[int], descriptors: list[int], offsets: list[int], rows: NDArray[np.uint8]
) -> None:
    """Read rows alone."""
    width = rows.shape[1]
    for row in part:
        got = os.preadv(descriptors[row], (rows[row],), offsets[row])
        if got != width:
            raise RowError(row, f"ends after {got} of {width} bytes")


class ZarrRows:
    """The same rows through zarr-python: for compressed caches, and to check the direct way."""

    def __init__(
        self, folder: Path, array: ArraySpec, layout: Layout, sizes: dict[str, int]
    ) -> None:
        self._folder, self._array, self._layout, self._sizes = folder, array, layout, sizes

    @cached_property
    def _zarr(self) -> Any:
        import zarr

        return zarr.open_array(self._folder / self._array.name, mode="r")

    def expect(self, views: Numbers, videos: Numbers) -> None:
        """Nothing: zarr-python has no way to say so."""

    def prepare(self, views: Numbers, videos: Numbers, out: NDArray[Any]) -> ReadPart:
        for row, (view, video) in enumerate(zip(views.tolist(), videos.tolist(), strict=True)):
            unit, _ = self._layout.locate(video)
            key = object_key(self._array, view // self._layout.block_views, unit)
            path, expected = self._folder / key, self._sizes[key]
            # zarr-python reads what is missing as zeros.
            try:
                size = path.stat().st_size
            except OSError as error:
                raise RowError(row, f"cannot be read: {error}") from error
            if size != expected:
                raise RowError(row, f"lies in {key}: it is {size} bytes long instead of {expected}")
        opened = self._zarr

        def read(part: Iterable[int]) -> None:
            for row in part:
                try:
                    out[row] = opened[int(views[row]), int(videos[row])]
                except (ValueError, RuntimeError) as error:
                    raise RowError(row, f"does not have the checksum it was given: {error}") from (
                        error
                    )

        return read
