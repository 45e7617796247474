"""The checksums that rows must have, from the store's tables of them (format/row_checksums.py).

An object of a table is read whole when the first row of its unit is asked for, and proved by the
sha256 in the unit's commit record. What is kept grows with what was touched.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec
from reskd.teacher_cache.format.commits import StoredObject
from reskd.teacher_cache.format.layout import CRC_BYTES, Layout, object_key

_UNREAD: Final = -1


class TableInMemory:
    """One table of checksums, as far as it was asked for.

    Args:
        folder: The cache.
        table: Which of its tables.
        layout: Of the cache.
        objects: Committed objects of the table, by path.
    """

    def __init__(
        self,
        folder: Path,
        table: ArraySpec,
        layout: Layout,
        objects: Mapping[str, StoredObject],
    ) -> None:
        self._folder, self._table, self._layout, self._objects = folder, table, layout, objects
        self._width = table.row_shape[0]
        self._starts = np.full(layout.num_blocks * layout.num_units, _UNREAD, np.int64)
        self._sums = np.zeros(0, np.uint32)
        self._used = 0
        self._lock = Lock()

    def read(self, shard: int) -> None:
        """Have the checksums of an object's rows at hand.

        Args:
            shard: Its number: block times units, plus unit.

        Raises:
            OSError: If the object cannot be read.
            ValueError: If it is not the one that was committed.
        """
        with self._lock:
            if self._starts[shard] == _UNREAD:
                self._take(shard, read_table(self._folder, *self._address(shard), self._layout))

    def _take(self, shard: int, sums: NDArray[np.uint32]) -> None:
        start, end = self._used, self._used + sums.size
        if end > len(self._sums):
            larger = np.zeros(2 * end, np.uint32)
            larger[:start] = self._sums[:start]
            self._sums = larger  # who reads meanwhile has the former one, whose numbers stay
        self._sums[start:end] = sums.reshape(-1)
        self._starts[shard], self._used = start, end

    def of(
        self, shards: NDArray[np.int64], places: NDArray[np.int64], column: int
    ) -> NDArray[np.uint32]:
        """Checksums of rows, whose objects were read.

        Args:
            shards: Number of each row's object.
            places: Place of each row among the object's rows.
            column: Of the array.
        """
        found: NDArray[np.uint32] = self._sums[self._starts[shards] + places * self._width + column]
        return found

    def _address(self, shard: int) -> tuple[str, StoredObject, ArraySpec]:
        key = object_key(self._table, *divmod(shard, self._layout.num_units))
        return key, self._objects[key], self._table


class BoundRows:
    """The checksums that rows of one array have where they belong; none in caches of before."""

    def __init__(self, table: TableInMemory, column: int) -> None:
        self._table, self._column = table, column

    def read(self, shard: int) -> None:
        """See TableInMemory.read."""
        self._table.read(shard)

    def of(self, shards: NDArray[np.int64], places: NDArray[np.int64]) -> list[int]:
        """See TableInMemory.of."""
        found: list[int] = self._table.of(shards, places, self._column).tolist()
        return found


def read_table(
    folder: Path, key: str, stored: StoredObject, table: ArraySpec, layout: Layout
) -> NDArray[np.uint32]:
    """Checksums of one object's rows in their order, (rows, columns), proved.

    Raises:
        OSError: If the object cannot be read.
        ValueError: If it is not the one that was committed.
    """
    path = folder / key
    if (size := path.stat().st_size) != stored.bytes:
        raise ValueError(f"{key} is {size} bytes long instead of {stored.bytes}")
    data = path.read_bytes()
    if sha256(data).hexdigest() != stored.sha256:
        raise ValueError(f"{key}, which has its checksum, does not have the committed sha256")
    rows = np.frombuffer(data[: len(data) - layout.index_bytes()], "<u4")
    # The last number of each row is its own crc32c: the sha256 has proved that as well.
    return rows.reshape(-1, table.row_shape[0] + CRC_BYTES // 4)[:, :-1].astype(np.uint32)
