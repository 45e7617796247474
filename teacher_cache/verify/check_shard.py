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
from reskd.teacher_cache.format.shard import crc32c, decompress, parse_index
from reskd.teacher_cache.verify.report import Finding


@dataclass(frozen=True, slots=True)
class StoredShard:
    """One object, as read."""

    manifest: Manifest
    array: ArraySpec
    block: int
    unit: int
    data: bytes

    def rows(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """View, video and bytes (checksum included) of every row, as its index has them.

        Raises:
            ValueError: If the index is damaged.
        """
        layout = self.manifest.layout
        index = parse_index(self.data[-layout.index_bytes() :], layout)
        content = np.frombuffer(self.data, np.uint8)
        for place, view in enumerate(layout.views_of(self.block)):
            for column, video in enumerate(layout.videos_of(self.unit)):
                offset, length = (int(number) for number in index[place, column])
                yield view, video, content[offset : offset + length]


def check_shard(
    shard: StoredShard, expected_sha256: str, failed: Collection[int], template: Finding
) -> Iterator[Finding]:
    """Compare an object with its commit record.

    Rows are looked at one by one only if the whole is not what was committed. If it is, the rows of
    videos that the record calls unreadable must be marked so, and no others.

    Args:
        shard: The object.
        expected_sha256: As committed.
        failed: Videos that its commit record calls unreadable.
        template: Finding that names the object.
    """
    if sha256(shard.data).hexdigest() == expected_sha256:
        yield from _check_marks(shard, failed, template)
        return
    yield replace(template, problem="does not have the committed sha256")
    try:
        for view, video, row in shard.rows():
            stored = int.from_bytes(row[-CRC_BYTES:].tobytes(), "little")
            if crc32c(row[:-CRC_BYTES].tobytes()) != stored:
                problem = "the row does not have the checksum it was given"
                yield replace(template, problem=problem, view=view, video=video)
    except ValueError as error:
        yield replace(template, problem=str(error))


def _check_marks(
    shard: StoredShard, failed: Collection[int], template: Finding
) -> Iterator[Finding]:
    """Array `views` marks every row; all other rows of an unreadable video are zeros."""
    marked = shard.array.name == "views"
    if not marked and not failed:
        return
    for view, video, stored in shard.rows():
        if not marked and video not in failed:
            continue
        row = decompress(shard.manifest.codec, stored[:-CRC_BYTES])
        is_failed = row.view("<i4")[-1] == FAILED if marked else not row.any()
        if is_failed != (video in failed):
            problem = "is marked otherwise than the commit record says of its video"
            yield replace(template, problem=problem, view=view, video=video)
