"""One stored object against its commit record, and its rows where they differ."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec
from reskd.common.video.views import FAILED
from reskd.teacher_cache.format.layout import CRC_BYTES
from reskd.teacher_cache.format.manifest import Manifest
from reskd.teacher_cache.format.shard import Codec, crc32c, decompress, parse_index
from reskd.teacher_cache.verify.report import Finding


@dataclass(frozen=True, slots=True)
class StoredShard:
    """One object, as read."""

    manifest: Manifest
    array: ArraySpec
    block: int
    unit: int
    data: bytes

    @property
    def codec(self) -> Codec:
        """Compression of its rows."""
        return self.manifest.codec_of(self.array)

    def rows(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """View, video and bytes (checksum included) of every row, as its index has them.

        Raises:
            ValueError: If the index is damaged, or names what is no row.
        """
        layout = self.manifest.layout
        index = parse_index(self.data[-layout.index_bytes() :], layout)
        content = np.frombuffer(self.data, np.uint8)[: -layout.index_bytes()]
        for place, view in enumerate(layout.views_of(self.block)):
            for column, video in enumerate(layout.videos_of(self.unit)):
                offset, length = (int(number) for number in index[place, column])
                if length < CRC_BYTES or offset + length > len(content):
                    raise ValueError(
                        f"its index has the row of view {view}, video {video} at byte {offset}, "
                        f"{length} bytes long, and rows end at {len(content)}"
                    )
                yield view, video, content[offset : offset + length]


def check_shard(
    shard: StoredShard,
    expected_sha256: str,
    failed: Collection[int],
    template: Finding,
    *,
    bound: NDArray[np.uint32] | None,
) -> Iterator[Finding]:
    """Compare an object with its commit record, and every row with its checksums.

    If the object is the one that was committed, the rows of videos that the record calls unreadable
    must be marked so, and no others.

    Args:
        shard: The object.
        expected_sha256: As committed.
        failed: Videos that its commit record calls unreadable.
        template: Finding that names the object.
        bound: (rows,) checksums that the store's tables have for the object's places; None if it
            has none, or none that can be trusted.
    """
    committed = sha256(shard.data).hexdigest() == expected_sha256
    if not committed:
        yield replace(template, problem="does not have the committed sha256")
    try:
        for number, (view, video, stored) in enumerate(shard.rows()):
            expected = None if bound is None else int(bound[number])
            problem = _problem_of_row(shard, stored, expected)
            if problem is None and committed:
                problem = _problem_of_mark(shard, stored, failed=video in failed)
            if problem is not None:
                yield replace(template, problem=problem, view=view, video=video)
    except ValueError as error:
        yield replace(template, problem=str(error))


def _problem_of_row(
    shard: StoredShard, stored: NDArray[np.uint8], expected: int | None
) -> str | None:
    """Whether a row is whole, and the one that belongs in its place."""
    total = crc32c(stored[:-CRC_BYTES])
    if total != int.from_bytes(stored[-CRC_BYTES:].tobytes(), "little"):
        return "the row does not have the checksum it was given"
    if shard.codec != "none" or len(stored) != shard.array.row_bytes + CRC_BYTES:
        try:
            row = decompress(shard.codec, stored[:-CRC_BYTES], shard.array.row_bytes)
        except ValueError as error:
            return str(error)
        total = crc32c(row)
    if expected is not None and total != expected:
        return "the row does not belong here: row_checksums have another one's for its place"
    return None


def _problem_of_mark(shard: StoredShard, stored: NDArray[np.uint8], *, failed: bool) -> str | None:
    """Array `views` marks every row; all other rows of an unreadable video are zeros."""
    marked = shard.array.name == "views"
    if not marked and not failed:
        return None
    row = decompress(shard.codec, stored[:-CRC_BYTES], shard.array.row_bytes)
    is_failed = row.view("<i4")[-1] == FAILED if marked else not row.any()
    if is_failed == failed:
        return None
    return "is marked otherwise than the commit record says of its video"
