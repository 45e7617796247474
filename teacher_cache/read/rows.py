"""Two ways to the rows of one array: our own, which is fast, and zarr-python's, as a check.

Our own for compressed rows is in packed_rows.py. All give the same bytes, check the same checksums
and refuse the same damage.
"""

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec
from reskd.teacher_cache.format.layout import CRC_BYTES, Layout, object_key
from reskd.teacher_cache.format.shard import crc32c, parse_index
from reskd.teacher_cache.read.expected_checksums import BoundRows
from reskd.teacher_cache.read.open_files import CLOSED, OpenFiles
from reskd.teacher_cache.read.places import RowPlaces

Numbers = NDArray[np.int64]
ReadPart = Callable[[Iterable[int]], None]
"""Reads some rows of a prepared batch, by their place in it; may run in several threads at once."""
PIECE_BYTES = 1 << 18
"""Read and summed at a time; fits into a core's own cache together with its source."""


class RowError(Exception):
    """One row of a batch cannot be read."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row
        """Its place in the batch."""
        self.problem = problem


DAMAGED: Final = "does not have the checksum it was given"
ANOTHER_ROW: Final = (
    "is whole and does not belong there: the store's row_checksums have another checksum for this "
    "place, as if objects or rows had been swapped"
)


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


class DirectRows:
    """Rows that were written uncompressed to local files: one preadv each.

    Args:
        folder: The cache.
        array: Which array.
        places: Of the cache's rows.
        layout: Of the cache.
        sizes: Committed bytes of each object, by path.
        files: Shared by all arrays.
        checksums: Compare every row with its crc32c.
        bound: That of its place; None in a cache of before, whose rows have no more than their own.
    """

    def __init__(
        self,
        folder: Path,
        array: ArraySpec,
        places: RowPlaces,
        layout: Layout,
        sizes: dict[str, int],
        files: OpenFiles,
        *,
        checksums: bool,
        bound: BoundRows | None,
    ) -> None:
        self._folder, self._array, self._places, self._layout = folder, array, places, layout
        self._sizes, self._files, self._checksums = sizes, files, checksums
        self._bound = bound if checksums else None
        self._width = array.row_bytes + CRC_BYTES
        self._descriptors = np.full(layout.num_blocks * layout.num_units, CLOSED, np.int64)
        self._checked = np.zeros(len(self._descriptors), bool)
        self._entries: dict[int, Numbers] = {}

    def prepare(self, views: Numbers, videos: Numbers, out: NDArray[Any]) -> ReadPart:
        shards, places = self._places.of(views, videos)
        descriptors = self._opened(shards)
        offsets: list[int] = (places * self._width).tolist()
        rows = out.reshape(len(out), -1).view(np.uint8)
        if self._bound is not None:
            expected = self._bound.of(shards, places)
            return lambda part: _read_bound(part, descriptors, offsets, expected, rows)
        if self._checksums:
            return lambda part: _read_checked(part, descriptors, offsets, rows)
        return lambda part: _read(part, descriptors, offsets, rows)

    def expect(self, views: Numbers, videos: Numbers) -> None:
        """Rows that lie together are one request."""
        if not hasattr(os, "posix_fadvise"):
            return
        shards, places = self._places.of(views, videos)
        descriptors, offsets = np.array(self._opened(shards)), places * self._width
        order, width = np.lexsort((offsets, descriptors)), self._width
        files, starts = descriptors[order], offsets[order]
        apart = (np.diff(files) != 0) | (np.diff(starts) != width)
        for run in np.split(np.arange(len(order)), np.flatnonzero(apart) + 1):
            first, last = run[0], run[-1]
            length = int(starts[last] - starts[first]) + width
            os.posix_fadvise(int(files[first]), int(starts[first]), length, os.POSIX_FADV_WILLNEED)

    def _opened(self, shards: Numbers) -> list[int]:
        """The open file of each row."""
        descriptors: list[int] = self._descriptors[shards].tolist()
        return self._open_all(shards) if CLOSED in descriptors else descriptors

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
            self._check_size(descriptor, self._sizes[key])
            if not self._checked[shard]:  # else only its descriptor had been closed
                self._check_index(descriptor, shard, self._sizes[key])
                if self._bound is not None:
                    self._bound.read(shard)
                self._checked[shard] = True
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise RowError(row, f"lies in {key}: {error}") from error
        self._files.keep(descriptor, self._descriptors, shard)

    def _check_size(self, descriptor: int, expected: int) -> None:
        if (size := os.fstat(descriptor).st_size) != expected:
            raise ValueError(f"it is {size} bytes long instead of {expected}")

    def _rows_of(self, shard: int) -> tuple[int, int]:
        """Views and videos of an object."""
        block, unit = divmod(shard, self._layout.num_units)
        return len(self._layout.views_of(block)), len(self._layout.videos_of(unit))

    def _check_index(self, descriptor: int, shard: int, size: int) -> None:
        """Its rows must follow each other, as they were written."""
        tail, (views, videos) = self._layout.index_bytes(), self._rows_of(shard)
        index = parse_index(os.pread(descriptor, tail, size - tail), self._layout)
        there = index[:views, :videos].reshape(-1, 2)
        if (there[:, 1] != self._width).any():
            raise ValueError("its index has rows of other lengths")
        if (there[:, 0] != np.arange(len(there), dtype=np.uint64) * np.uint64(self._width)).any():
            raise ValueError("its index has rows in other places")


def _read_bound(
    part: Iterable[int],
    descriptors: list[int],
    offsets: list[int],
    expected: list[int],
    rows: NDArray[np.uint8],
) -> None:
    """Read rows that have the checksums which belong to their places."""
    width = rows.shape[1]
    for row in part:
        data, descriptor, offset = rows[row], descriptors[row], offsets[row]
        start = total = 0
        if width > PIECE_BYTES:
            data, total, start = _read_long(data, descriptor, offset)
        got = os.preadv(descriptor, [data], offset + start)
        if got != width - start:
            raise RowError(row, f"ends after {start + got} of {width} bytes")
        if (total := crc32c(data, total)) != expected[row]:
            own = int.from_bytes(os.pread(descriptor, CRC_BYTES, offset + width), "little")
            raise RowError(row, ANOTHER_ROW if own == total else DAMAGED)


def _read_checked(
    part: Iterable[int], descriptors: list[int], offsets: list[int], rows: NDArray[np.uint8]
) -> None:
    """Read rows with the checksums behind them."""
    width, tail = rows.shape[1], bytearray(CRC_BYTES)
    for row in part:
        data, descriptor, offset = rows[row], descriptors[row], offsets[row]
        start = total = 0
        if width > PIECE_BYTES:
            data, total, start = _read_long(data, descriptor, offset)
        got = os.preadv(descriptor, (data, tail), offset + start)
        if got != width - start + CRC_BYTES:
            raise RowError(row, f"ends after {start + got} of {width + CRC_BYTES} bytes")
        if crc32c(data, total) != int.from_bytes(tail, "little"):
            raise RowError(row, DAMAGED)


def _read_long(data: Any, descriptor: int, offset: int) -> tuple[Any, int, int]:
    """All pieces of a long row but the last: each is summed while it is in the processor's cache.

    Returns:
        Where the last one goes, the checksum up to it, and its start.
    """
    start = total = 0
    while len(data) - start > PIECE_BYTES:
        piece = data[start : start + PIECE_BYTES]
        # A short read leaves the last one without its bytes, or the checksum wrong.
        os.preadv(descriptor, (piece,), offset + start)
        total, start = crc32c(piece, total), start + PIECE_BYTES
    return data[start:], total, start


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
    """The same rows through zarr-python, to check the direct ways."""

    def __init__(
        self,
        folder: Path,
        array: ArraySpec,
        places: RowPlaces,
        layout: Layout,
        sizes: dict[str, int],
        *,
        bound: BoundRows | None,
    ) -> None:
        self._folder, self._array, self._places, self._layout = folder, array, places, layout
        self._sizes, self._bound = sizes, bound

    @cached_property
    def _zarr(self) -> Any:
        import zarr

        return zarr.open_array(self._folder / self._array.name, mode="r")

    def expect(self, views: Numbers, videos: Numbers) -> None:
        """Nothing: zarr-python has no way to say so."""

    def prepare(self, views: Numbers, videos: Numbers, out: NDArray[Any]) -> ReadPart:
        shards, places = self._places.of(views, videos)
        for row, shard in enumerate(shards.tolist()):
            self._check_object(row, shard)
        expected = None if self._bound is None else self._bound.of(shards, places)
        opened = self._zarr

        def read(part: Iterable[int]) -> None:
            for row in part:
                try:
                    out[row] = opened[int(views[row]), int(videos[row])]
                except (ValueError, RuntimeError) as error:
                    raise RowError(row, f"{DAMAGED}: {error}") from error
                # zarr-python has compared the row's own checksum.
                if (
                    expected is not None
                    and crc32c(out[row : row + 1].reshape(-1).view(np.uint8)) != expected[row]
                ):
                    raise RowError(row, ANOTHER_ROW)

        return read

    def _check_object(self, row: int, shard: int) -> None:
        key = object_key(self._array, *divmod(shard, self._layout.num_units))
        # zarr-python reads what is missing as zeros.
        try:
            size = (self._folder / key).stat().st_size
        except OSError as error:
            raise RowError(row, f"cannot be read: {error}") from error
        if size != self._sizes[key]:
            raise RowError(
                row, f"lies in {key}: it is {size} bytes long instead of {self._sizes[key]}"
            )
        try:
            if self._bound is not None:
                self._bound.read(shard)
        except (OSError, ValueError) as error:
            raise RowError(row, f"lies in {key}: {error}") from error
