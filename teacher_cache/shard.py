"""One shard object in memory: rows in, the bytes of Zarr's sharding codec out, and its index back.

Source: Zarr v3 specification, sharding-indexed codec 1.0 and crc32c codec 1.0.
"""

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from common.distill.arrays import ArraySpec, Row
from teacher_cache.layout import CRC_BYTES, INDEX_ENTRY_BYTES, Layout

MISSING = np.iinfo(np.uint64).max


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """CRC-32C (Castagnoli) of a contiguous buffer, without copying it."""
    value: int = google_crc32c.value(data)
    return value


class ShardBuffer:
    """The object of one array of one unit while it is filled; rows may come in any order."""

    def __init__(self, array: ArraySpec, layout: Layout, unit: int) -> None:
        self._array = array
        self._layout = layout
        videos = len(layout.videos_of(unit))
        shape = (layout.num_views, videos, array.row_bytes + CRC_BYTES)
        self._rows: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self._filled = np.zeros(shape[:2], bool)

    def put(self, place: int, rows: Row) -> None:
        """Take the rows of all views of one video.

        Args:
            place: The video's place inside the unit.
            rows: (V, *row_shape) of the array's type.
        """
        expected = (self._layout.num_views, *self._array.row_shape)
        assert rows.shape == expected, (self._array.name, rows.shape, expected)
        assert rows.dtype == np.dtype(self._array.dtype), (self._array.name, rows.dtype)
        little = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
        flat = little.reshape(rows.shape[0], -1).view(np.uint8)
        for view, data in enumerate(flat):
            self._rows[view, place, :-CRC_BYTES] = data
            self._rows[view, place, -CRC_BYTES:] = _checksum(data)
        self._filled[:, place] = True

    def pieces(self) -> list[memoryview]:
        """The object's bytes, in order.

        Every row must have been put: a unit is written whole or not at all.
        """
        assert self._filled.all(), f"{self._array.name}: rows of a unit are missing"
        views, videos, stride = self._rows.shape
        index = np.full((views, self._layout.unit_videos, 2), MISSING, "<u8")
        index[:, :videos, 0] = np.arange(views * videos).reshape(views, videos) * stride
        index[:, :videos, 1] = stride
        raw = index.reshape(-1).view(np.uint8)
        return [self._rows.reshape(-1).data, raw.data, _checksum(raw).data]


def parse_index(raw: bytes, layout: Layout) -> NDArray[np.uint64]:
    """Offsets and lengths from the end of a shard object.

    Args:
        raw: The last `layout.index_bytes()` bytes of the object.
        layout: Of the array.

    Returns:
        (V, S, 2) uint64: offset and length of every row; all ones where there is none.

    Raises:
        ValueError: If the bytes are too few or their checksum does not fit.
    """
    if len(raw) != layout.index_bytes():
        raise ValueError(f"its index has {len(raw)} bytes instead of {layout.index_bytes()}")
    body, stored = raw[:-CRC_BYTES], int.from_bytes(raw[-CRC_BYTES:], "little")
    if crc32c(body) != stored:
        raise ValueError(f"the checksum of its index is {crc32c(body):08x}, not {stored:08x}")
    entries = np.frombuffer(body, "<u8").reshape(layout.num_views, layout.unit_videos, 2)
    assert entries.nbytes == layout.num_views * layout.unit_videos * INDEX_ENTRY_BYTES
    return entries


def _checksum(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(crc32c(data).to_bytes(CRC_BYTES, "little"), np.uint8)
