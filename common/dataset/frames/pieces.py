"""Finished videos of a shard that is not finished: a file each, whole or not there.

    images | one ROW per frame | facts as JSON | length of that JSON, 8 bytes

Temporary: the shard is put together from them, and they go. A killed run loses only the videos it
was decoding; what it costs is to copy each byte once more, seconds against hours of decoding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from json import loads
from pathlib import Path

import numpy as np

from reskd.common.dataset.frames.encode import ROW, KeptVideo, Rows, VideoFacts
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.records import canonical_json

LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """One video that is to go into a shard."""

    facts: VideoFacts
    rows: Rows
    """One ROW per kept frame, offsets from the start of the video's images."""
    path: Path | None
    """File that begins with the images; None where there are none."""

    @property
    def image_bytes(self) -> int:
        return int(self.rows["size"].sum(dtype=np.int64))


def write_piece(path: Path, video: KeptVideo) -> None:
    """Decode and encode a video into a file of its own, with little of it in memory.

    Raises:
        UnreadableVideoError: If the video cannot be read; there is no file then.
    """

    def chunks() -> Iterator[bytes]:
        yield from video.images()
        facts = canonical_json(video.facts.as_dict())
        yield video.rows.tobytes()
        yield facts
        yield len(facts).to_bytes(LENGTH_BYTES, "little")

    atomic_write(path, chunks())


def read_piece(path: Path) -> Piece:
    """Facts and rows of a finished video; the images stay where they are."""
    with path.open("rb") as file:
        end = file.seek(-LENGTH_BYTES, 2)
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        file.seek(end - length)
        facts = VideoFacts(**loads(file.read(length).decode("utf-8", "surrogateescape")))
        file.seek(end - length - facts.num_frames * ROW.itemsize)
        rows = np.frombuffer(file.read(facts.num_frames * ROW.itemsize), ROW)
    return Piece(facts, rows, path)


def failed_piece(video_id: str, reason: str) -> Piece:
    """What a shard holds of a video that cannot be read."""
    return Piece(VideoFacts(id=video_id, failure=reason), np.empty(0, ROW), None)
