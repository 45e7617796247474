"""Rows that were compressed, each by itself: read, proved and decompressed one by one.

Where the rows of an object lie its index says; what it says is compared with the object's size, and
no row takes more memory than the array's rows do, whatever it says of itself.
"""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reskd.teacher_cache.format.layout import CRC_BYTES
from reskd.teacher_cache.format.shard import crc32c, decompress, parse_index
from reskd.teacher_cache.read.rows import ANOTHER_ROW, DAMAGED, DirectRows, ReadPart, RowError

Numbers = NDArray[np.int64]


class PackedRows(DirectRows):
    """Rows of codec zstd in local files."""

    def prepare(self, views: Numbers, videos: Numbers, out: NDArray[Any]) -> ReadPart:
        shards, places = self._places.of(views, videos)
        descriptors = self._opened(shards)
        entries = [
            self._entries[shard][place].tolist()
            for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
        ]
        expected = None if self._bound is None else self._bound.of(shards, places)
        rows = out.reshape(len(out), -1).view(np.uint8)

        def read(part: Iterable[int]) -> None:
            for row in part:
                offset, length = entries[row]
                stored = os.pread(descriptors[row], length, offset)
                self._unpack(row, stored, rows[row])
                if expected is not None and crc32c(rows[row]) != expected[row]:
                    raise RowError(row, ANOTHER_ROW)

        return read

    def expect(self, views: Numbers, videos: Numbers) -> None:
        """Nothing: compressed rows are for cold storage."""

    def _unpack(self, row: int, stored: bytes, out: NDArray[np.uint8]) -> None:
        packed = np.frombuffer(stored, np.uint8)[:-CRC_BYTES]
        if crc32c(packed) != int.from_bytes(stored[-CRC_BYTES:], "little"):
            raise RowError(row, DAMAGED)
        try:
            out[:] = decompress("zstd", packed, len(out))
        except ValueError as error:
            raise RowError(row, str(error)) from error

    def _check_index(self, descriptor: int, shard: int, size: int) -> None:
        tail, rows = self._layout.index_bytes(), self._rows_of(shard)
        index = parse_index(os.pread(descriptor, tail, size - tail), self._layout)
        there = index[: rows[0], : rows[1]].reshape(-1, 2)
        offsets, lengths, end = there[:, 0], there[:, 1], np.uint64(size - tail)
        if (lengths <= CRC_BYTES).any() or (offsets > end).any() or (lengths > end - offsets).any():
            raise ValueError("its index has rows that are not in it")
        self._entries[shard] = there.astype(np.int64)
