"""Where a row lies: pure arithmetic between rows, units, shard objects and bytes.

A unit is S consecutive videos and all V views of them. Every array of a unit is one object, a
shard of the Zarr v3 sharding codec:

    row (view 0, video 0), its crc32c | row (view 0, video 1), its crc32c | ... | index, its crc32c

The index has two little-endian uint64 per row, offset and length, in the same order (view-major,
so that the rows an epoch reads lie together). Rows past the last video do not exist: their index
entries are all ones.
"""

from dataclasses import dataclass
from math import ceil

from common.distill.arrays import ArraySpec

CRC_BYTES = 4
INDEX_ENTRY_BYTES = 16
LEAST_UNITS = 8
"""Units a cache has at least, where there are as many videos: so that no stop ever loses more than
an eighth of the work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How V views of N videos are cut into units of S videos."""

    num_views: int
    """V."""
    num_videos: int
    """N."""
    unit_videos: int
    """S; the last unit may hold fewer."""

    @property
    def num_units(self) -> int:
        """Units needed for all videos."""
        return ceil(self.num_videos / self.unit_videos)

    def videos_of(self, unit: int) -> range:
        """Video numbers of a unit."""
        start = unit * self.unit_videos
        return range(start, min(start + self.unit_videos, self.num_videos))

    def locate(self, video: int) -> tuple[int, int]:
        """Unit of a video, and the video's place inside it."""
        return divmod(video, self.unit_videos)

    def index_bytes(self) -> int:
        """Bytes of a shard's index with its checksum."""
        return self.num_views * self.unit_videos * INDEX_ENTRY_BYTES + CRC_BYTES

    def object_bytes(self, array: ArraySpec, unit: int) -> int:
        """Exact size of one shard object."""
        rows = self.num_views * len(self.videos_of(unit))
        return rows * (array.row_bytes + CRC_BYTES) + self.index_bytes()

    def total_bytes(self, array: ArraySpec) -> int:
        """Exact size of all shard objects of an array."""
        return sum(self.object_bytes(array, unit) for unit in range(self.num_units))


def object_key(array: ArraySpec, unit: int) -> str:
    """Path of a shard object inside the cache, as Zarr's default chunk keys have it."""
    return "/".join([array.name, "c", "0", str(unit), *("0" for _ in array.row_shape)])


def commit_key(unit: int) -> str:
    """Path of a unit's commit record; g1 is the first generation of views."""
    return f"commits/{unit:06d}.g1.json"


def choose_unit_videos(
    arrays: tuple[ArraySpec, ...], *, num_views: int, num_videos: int, memory_bytes: int
) -> int:
    """The largest S whose unit fits into memory and leaves at least LEAST_UNITS units."""
    row_bytes = sum(array.row_bytes + CRC_BYTES for array in arrays)
    fitting = memory_bytes // (row_bytes * num_views)
    return max(1, min(fitting, num_videos // LEAST_UNITS))
