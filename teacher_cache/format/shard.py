"""One shard object in memory: rows in, the bytes of Zarr's sharding codec out, and its index back.

Source: Zarr v3 specification, sharding-indexed codec 1.0 and crc32c codec 1.0.
"""

from collections.abc import Iterator
from typing import Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec, Row
from reskd.teacher_cache.format.layout import CRC_BYTES, INDEX_ENTRY_BYTES, Layout

Codec = Literal["none", "zstd"]
ZSTD_LEVEL = 1
"""Higher levels gain a few per cent on feature maps and cost several times the time."""
MISSING = np.iinfo(np.uint64).max


def crc32c(data: bytes | NDArray[np.uint8], before: int = 0) -> int:
    """CRC-32C (Castagnoli) of a contiguous buffer, without copying it.

    Args:
        data: The buffer.
        before: Checksum of what comes before it, if it is not the first part.
    """
    value: int = google_crc32c.extend(before, data)
    return value


class ShardBuffer:
    """The object of one array, block and unit while it is filled; rows may come in any order."""

    def __init__(self, array: ArraySpec, layout: Layout, block: int, unit: int) -> None:
        self._array, self._layout = array, layout
        self.views = layout.views_of(block)
        """Views of the block."""
        shape = (len(self.views), len(layout.videos_of(unit)), array.row_bytes + CRC_BYTES)
        self._rows: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self._filled = np.zeros(shape[:2], bool)

    def put(self, place: int, rows: Row, first: int = 0) -> None:
        """Take the rows of some views of one video.

        Args:
            place: The video's place inside the unit.
            rows: (n, *row_shape) of the array's type, of n views in order.
            first: Place of the first of these views inside the block.
        """
        for view, data in enumerate(_as_bytes(self._array, rows), first):
            self._rows[view, place, :-CRC_BYTES] = data
            self._rows[view, place, -CRC_BYTES:] = _checksum(data)
            self._filled[view, place] = True

    def checksums(self) -> NDArray[np.uint32]:
        """(views, videos) crc32c of the rows, before any compression."""
        return np.ascontiguousarray(self._rows[..., -CRC_BYTES:]).view("<u4")[..., 0]

    def pieces(self) -> list[memoryview]:
        """The object's bytes, in order.

        Every row must have been put: a unit is written whole or not at all.
        """
        assert self._filled.all(), f"{self._array.name}: rows of a unit are missing"
        views, videos, stride = self._rows.shape
        lengths = np.full((views, videos), stride, np.uint64)
        return [self._rows.reshape(-1).data, *_index(lengths, self._layout)]


class CompressedShardBuffer:
    """The same with zstd on every row: fewer bytes, each row of its own length."""

    def __init__(self, array: ArraySpec, layout: Layout, block: int, unit: int) -> None:
        from numcodecs.zstd import Zstd  # what zarr itself compresses with

        self._array, self._layout = array, layout
        self.views = layout.views_of(block)
        """Views of the block."""
        self._videos = len(layout.videos_of(unit))
        self._zstd = Zstd(level=ZSTD_LEVEL)
        self._rows: dict[tuple[int, int], bytes] = {}
        self._checksums = np.zeros((len(self.views), self._videos), np.uint32)

    def put(self, place: int, rows: Row, first: int = 0) -> None:
        """See ShardBuffer.put."""
        for view, data in enumerate(_as_bytes(self._array, rows), first):
            packed = self._zstd.encode(data)
            self._checksums[view, place] = crc32c(data)
            self._rows[view, place] = packed + _checksum(np.frombuffer(packed, np.uint8)).tobytes()

    def checksums(self) -> NDArray[np.uint32]:
        """See ShardBuffer.checksums."""
        return self._checksums

    def pieces(self) -> list[memoryview]:
        """See ShardBuffer.pieces."""
        order = [(view, video) for view in range(len(self.views)) for video in range(self._videos)]
        assert len(self._rows) == len(order), f"{self._array.name}: rows of a unit are missing"
        rows = [self._rows[key] for key in order]
        lengths = np.array([len(row) for row in rows], np.uint64)
        return [
            *(memoryview(row) for row in rows),
            *_index(lengths.reshape(len(self.views), self._videos), self._layout),
        ]


AnyShardBuffer = ShardBuffer | CompressedShardBuffer


def shard_buffer(
    codec: Codec, array: ArraySpec, layout: Layout, block: int, unit: int
) -> AnyShardBuffer:
    """An empty buffer for one object."""
    kind = CompressedShardBuffer if codec == "zstd" else ShardBuffer
    return kind(array, layout, block, unit)


def decompress(codec: Codec, row: NDArray[np.uint8], row_bytes: int) -> NDArray[np.uint8]:
    """The bytes of a row as they were before its codec.

    Args:
        codec: Which one.
        row: As stored, without its checksum.
        row_bytes: How many they are.

    Raises:
        ValueError: If they cannot be had back, or are others in number.
    """
    if codec == "none":
        content, whole = len(row), row
    else:
        from numcodecs.zstd import Zstd

        content, whole = _zstd_content(row.tobytes()), np.empty(row_bytes, np.uint8)
        if content == row_bytes:  # never more memory than a row takes
            try:
                Zstd().decode(row.tobytes(), out=whole)
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"cannot be decompressed: {error}") from error
    if content != row_bytes:
        raise ValueError(f"is of {content} bytes instead of {row_bytes}")
    return whole


def _zstd_content(packed: bytes) -> int:
    """Bytes that a Zstandard frame says it holds; -1 if it does not say.

    Source: RFC 8878, section 3.1.1.1.
    """
    if len(packed) < 5 or packed[:4] != b"\x28\xb5\x2f\xfd":
        return -1
    descriptor = packed[4]
    single = descriptor >> 5 & 1
    size = (single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    field = packed[start : start + size]
    if not size or len(field) < size:
        return -1
    return int.from_bytes(field, "little") + (256 if size == 2 else 0)


def parse_index(raw: bytes, layout: Layout) -> NDArray[np.uint64]:
    """Offsets and lengths from the end of a shard object.

    Args:
        raw: The last `layout.index_bytes()` bytes of the object.
        layout: Of the array.

    Returns:
        (V0, S, 2) uint64: offset and length of every row; all ones where there is none.

    Raises:
        ValueError: If the bytes are too few or their checksum does not fit.
    """
    if len(raw) != layout.index_bytes():
        raise ValueError(f"its index has {len(raw)} bytes instead of {layout.index_bytes()}")
    body, stored = raw[:-CRC_BYTES], int.from_bytes(raw[-CRC_BYTES:], "little")
    if crc32c(body) != stored:
        raise ValueError(f"the checksum of its index is {crc32c(body):08x}, not {stored:08x}")
    entries = np.frombuffer(body, "<u8").reshape(layout.block_views, layout.unit_videos, 2)
    assert entries.nbytes == layout.block_views * layout.unit_videos * INDEX_ENTRY_BYTES
    return entries


def _as_bytes(array: ArraySpec, rows: Row) -> Iterator[NDArray[np.uint8]]:
    """The little-endian bytes of each row."""
    assert rows.shape[1:] == array.row_shape, (array.name, rows.shape, array.row_shape)
    assert rows.dtype == np.dtype(array.dtype), (array.name, rows.dtype)
    little = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    return iter(little.reshape(len(rows), -1).view(np.uint8))


def _index(lengths: NDArray[np.uint64], layout: Layout) -> tuple[memoryview, memoryview]:
    """The index of rows that follow each other, and its checksum."""
    views, videos = lengths.shape
    index = np.full((layout.block_views, layout.unit_videos, 2), MISSING, "<u8")
    ends = np.cumsum(lengths.reshape(-1), dtype=np.uint64).reshape(views, videos)
    index[:views, :videos, 0] = ends - lengths
    index[:views, :videos, 1] = lengths
    raw = index.reshape(-1).view(np.uint8)
    return raw.data, _checksum(raw).data


def _checksum(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(crc32c(data).to_bytes(CRC_BYTES, "little"), np.uint8)
