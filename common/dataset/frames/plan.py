"""Which frames are kept, at which size, and which videos lie in one file: arithmetic alone.

Everything here follows from the index and the options, so a run that goes on after a kill cuts the
work exactly as the first one did.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any, Final, Literal

from reskd.common.dataset.index import VideoEntry
from reskd.common.storage.records import digest

ImageFormat = Literal["jpg", "png"]
StoreLayout = Literal["packed", "folders"]

FORMAT: Final = "reskd-frames/1"
SHARD_FRAMES: Final[Mapping[ImageFormat, int]] = {"jpg": 65_536, "png": 16_384}
"""Frames that a shard should not exceed: 3 to 4 GB at a short side of 360.

Few enough files for any file system, small enough to move and to write anew. In frames and not in
bytes, since bytes are known only after encoding, and a run that goes on must cut where it cut.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameOptions:
    """What is kept of every video."""

    fps: float | None
    """Frames per second; None keeps every frame."""
    image_format: ImageFormat
    """`png` is lossless, `jpg` takes a fifth of its bytes and a third of its time to read."""
    quality: int | None
    """Of JPEG, 1 to 100; None for PNG."""
    short_side: int | None
    """Longest shorter side in pixels; smaller pictures are never enlarged. None keeps sizes."""


def kept_frames(num_frames: int, source_fps: float, fps: float | None) -> Sequence[int]:
    """Numbers of the frames that are kept.

    Frame i is taken to be shown at i / source_fps, a constant rate. Kept frame k stands for the
    moment k / fps: it is the source frame nearest to it, the later one of two equally near, for
    every k that has one. A video slower than that keeps each frame once, none is ever repeated.
    (`ffmpeg -r` repeats, follows each frame's own time, and rounds at the end in its own way, so
    it may keep one frame more or less.)

    Args:
        num_frames: Frames of the video.
        source_fps: Its rate, above 0 unless fps is None.
        fps: Rate wanted; None keeps every frame.
    """
    if fps is None or fps >= source_fps:
        return range(num_frames)
    step = source_fps / fps
    moments = range(floor(num_frames / step) + 2)
    numbers = (floor(moment * step + 0.5) for moment in moments)
    return [number for number in numbers if number < num_frames]


def kept_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Height and width of the kept images: the shorter side cut down to short_side.

    The reference forces the height to 360, which makes an upright video of 1080x1920 203 pixels
    wide; the shorter side is what later crops are measured by.
    """
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return height, width
    scaled = [(2 * side * short_side + shorter) // (2 * shorter) for side in (height, width)]
    return scaled[0], scaled[1]


def expected_frames(entry: VideoEntry, options: FrameOptions) -> int:
    """Frames that will be kept, as far as the index knows."""
    fps = options.fps if entry.fps > 0 else None
    return len(kept_frames(entry.num_frames, entry.fps, fps))


def shards_of(entries: Iterable[VideoEntry], options: FrameOptions, shard_frames: int) -> list[int]:
    """Number of videos of each shard, in order: each takes videos while they fit.

    A video lies in one shard wholly, so one that is too long for any has a shard of its own.
    """
    counts: list[int] = []
    filled = 0
    for entry in entries:
        frames = expected_frames(entry, options)
        if not counts or filled + frames > shard_frames:
            counts.append(0)
            filled = 0
        counts[-1] += 1
        filled += frames
    return counts


def shard_paths(path: Path, num_shards: int) -> list[Path]:
    """Files of a store: its own name where there is one, else frames-00003-of-00012.h5."""
    if num_shards == 1:
        return [path]
    return [
        path.with_name(f"{path.stem}-{shard:05d}-of-{num_shards:05d}{path.suffix}")
        for shard in range(num_shards)
    ]


def plan_record(
    entries: Sequence[VideoEntry],
    options: FrameOptions,
    *,
    split: str | None,
    decoder: str,
    shards: Sequence[int],
) -> dict[str, Any]:
    """What decides a store's content; a run continues only what was begun with the same."""
    rows = [[entry.id, entry.path, entry.num_frames, entry.fps] for entry in entries]
    return {
        "format": FORMAT,
        **asdict(options),
        "decoder": decoder,
        "split": split,
        "videos": len(entries),
        "index": digest(rows),
        "shards": list(shards),
    }


def plan_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Name the first field in which two plans differ, with both values."""
    for key in wanted:
        if found.get(key) != wanted[key]:
            return f"{key} was {found.get(key)!r}, now it is {wanted[key]!r}"
    return None
