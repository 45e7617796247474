"""Where a row lies: pure arithmetic between rows, units, shard objects and bytes.

A unit is S consecutive videos; views come in blocks of V0, the number of views of the first run.
Every array has one object per block and unit, a shard of the Zarr v3 sharding codec:

    row (view 0, video 0), its crc32c | row (view 0, video 1), its crc32c | ... | index, its crc32c

The index has two little-endian uint64 per row, offset and length, in the same order (view-major,
so that the rows an epoch reads lie together). Rows past the last view or the last video do not
exist: their index entries are all ones.

Videos that are added later begin at a new unit, because what is written is never rewritten. The
places that the unit before them has left are absent: they have a number and no video.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from reskd.common.distill.arrays import ArraySpec

CRC_BYTES = 4
INDEX_ENTRY_BYTES = 16
UNITS_IN_MEMORY = 2
"""Units that stage one holds at once: one is filled while the one before it is written."""
MEMORY_GB = 2.0
"""That these may take where nobody says otherwise: it decides how many videos a unit has."""
DECODED_BYTES = 2_000_000_000
"""Clips that stage one has decoded ahead of the teacher take at most this, or three videos' worth
if that is more."""
MAX_IN_A_ROW = 20
"""Unreadable videos one after the other at which stage one stops, where nobody says otherwise."""
LEAST_UNITS = 8
"""Units a cache has at least, where there are as many videos: so that no stop ever loses more than
an eighth of the work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How V views of N videos are cut into blocks of views and units of videos."""

    num_views: int
    """V."""
    block_views: int
    """V0; the last block may hold fewer."""
    num_videos: int
    """N."""
    unit_videos: int
    """S; the last unit may hold fewer, and the last before videos that were added."""
    absent: tuple[tuple[int, int], ...] = ()
    """Numbers without a video, each time the first and one past the last: up to a unit's end."""

    @property
    def extent(self) -> int:
        """Numbers that videos have, absent ones among them: length of the arrays' second axis."""
        return self.num_videos + sum(stop - start for start, stop in self.absent)

    @property
    def num_units(self) -> int:
        """Units needed for all videos."""
        return ceil(self.extent / self.unit_videos)

    @property
    def num_blocks(self) -> int:
        """Blocks needed for all views."""
        return ceil(self.num_views / self.block_views)

    def videos_of(self, unit: int) -> range:
        """Video numbers of a unit."""
        start = unit * self.unit_videos
        end = start + self.unit_videos
        left_over = next((first for first, stop in self.absent if stop == end), end)
        return range(start, min(left_over, self.extent))

    def with_videos(self, count: int) -> "Layout":
        """This layout and so many videos more, which begin at a new unit."""
        end = self.num_units * self.unit_videos
        absent = self.absent if end == self.extent else (*self.absent, (self.extent, end))
        return replace(self, num_videos=self.num_videos + count, absent=absent)

    def with_units(self, count: int) -> "Layout":
        """The first units of this layout alone."""
        extent = self.videos_of(count - 1).stop
        absent = tuple(places for places in self.absent if places[0] < extent)
        num_videos = extent - sum(stop - start for start, stop in absent)
        return replace(self, num_videos=num_videos, absent=absent)

    def views_of(self, block: int) -> range:
        """View numbers of a block."""
        start = block * self.block_views
        return range(start, min(start + self.block_views, self.num_views))

    def blocks_of(self, views: range) -> range:
        """Blocks that some views fill; the views begin where a block begins."""
        return range(views.start // self.block_views, ceil(views.stop / self.block_views))

    def locate(self, video: int) -> tuple[int, int]:
        """Unit of a video, and the video's place inside it."""
        return divmod(video, self.unit_videos)

    def index_bytes(self) -> int:
        """Bytes of a shard's index with its checksum."""
        return self.block_views * self.unit_videos * INDEX_ENTRY_BYTES + CRC_BYTES

    def object_bytes(self, array: ArraySpec, block: int, unit: int) -> int:
        """Exact size of one shard object whose rows are not compressed."""
        rows = len(self.views_of(block)) * len(self.videos_of(unit))
        return rows * (array.row_bytes + CRC_BYTES) + self.index_bytes()

    def unit_bytes(self, array: ArraySpec, unit: int, views: range) -> int:
        """Exact size of all objects of a unit that hold some views, rows not compressed."""
        return sum(self.object_bytes(array, block, unit) for block in self.blocks_of(views))

    def objects(self, array: ArraySpec, unit: int, views: range) -> Iterator[tuple[int, str]]:
        """Block and path of every object of an array in a unit that holds some views."""
        for block in self.blocks_of(views):
            yield block, object_key(array, block, unit)


def object_key(array: ArraySpec, block: int, unit: int) -> str:
    """Path of a shard object inside the cache, as Zarr's default chunk keys have it."""
    return "/".join([array.name, "c", str(block), str(unit), *("0" for _ in array.row_shape)])


def commit_key(generation: int, unit: int) -> str:
    """Path of the record of what one run (generations count from 1) wrote of a unit."""
    return f"commits/{unit:06d}.g{generation}.json"


def choose_unit_videos(
    arrays: tuple[ArraySpec, ...],
    *,
    num_views: int,
    num_videos: int,
    memory_bytes: int,
    multiple: int = 1,
) -> int:
    """The largest S whose units fit into memory and leave at least LEAST_UNITS units.

    Args:
        arrays: All arrays of a row.
        num_views: Views of one run.
        num_videos: N.
        memory_bytes: For UNITS_IN_MEMORY units.
        multiple: S should be a multiple of this (videos that the teacher sees together); it goes
            before LEAST_UNITS, not before memory.
    """
    row_bytes = sum(array.row_bytes + CRC_BYTES for array in arrays)
    fitting = memory_bytes // (UNITS_IN_MEMORY * row_bytes * num_views)
    wanted = max(multiple, num_videos // LEAST_UNITS // multiple * multiple)
    return max(1, min(fitting, wanted, num_videos))
