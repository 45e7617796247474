"""Made-up frames in the place of videos: a frame store for measuring, without a video or a decoder.

A small file says how many frames every video has and how large they are; the frames are windows of
one soft texture that move with the video's id and the frame's number. Making one costs little more
than to copy it, so what is left to measure is everything that comes after a decoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from reskd.common.dataset.frames.tables import StoredFacts
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.rng import derived_seed, keyed_generator
from reskd.common.storage.records import digest, read_record, write_record
from reskd.common.video.frame_reader import FrameReader

SYNTHETIC_SUFFIX: Final = ".synthetic"
FPS: Final = 25.0
_MARGIN: Final = 64
"""Pixels that a window may move by."""
_GRAIN: Final = 8
"""Pixels between two random colours of the texture; it compresses about as film does."""


class SyntheticStore:
    """A frame store that has every video, as `write_synthetic` described it."""

    def __init__(self, path: Path) -> None:
        self.files = (path,)
        self.plan: Mapping[str, Any] = {"image_format": "synthetic"}
        self._record = read_record(path)

    def all_facts(self) -> Iterator[StoredFacts]:
        """None: it has every video, whatever its id, so there is no list of them."""
        return iter(())

    def facts(self, video_id: str) -> StoredFacts:
        """What is known of a video."""
        known = digest([video_id, self._record])
        return StoredFacts(id=video_id, fps=FPS, digest=known, **self._record)

    def video(self, facts: StoredFacts) -> "SyntheticVideo":
        """A video as a reader."""
        return SyntheticVideo(self.files[0], facts)


class SyntheticVideo(FrameReader):
    """One made-up video."""

    decoder = "synthetic frames"
    limit = "{} are made up"

    def __init__(self, path: Path, facts: StoredFacts) -> None:
        super().__init__(
            path,
            num_frames=facts.num_frames,
            height=facts.height,
            width=facts.width,
            fps=facts.fps,
        )
        self._start = derived_seed("synthetic", facts.id) % _MARGIN**2

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        texture = _texture(self.height + _MARGIN, self.width + _MARGIN)
        pixels = np.empty((len(positions), self.height, self.width, 3), np.uint8)
        for row, number in enumerate(positions):
            top, left = divmod((self._start + 3 * number) % _MARGIN**2, _MARGIN)
            pixels[row] = texture[top : top + self.height, left : left + self.width]
        return pixels


def write_synthetic(path: Path, *, num_frames: int, height: int, width: int) -> None:
    """Describe a store of made-up frames; its name ends in SYNTHETIC_SUFFIX.

    Args:
        path: The file to write, which `data.frames` then names.
        num_frames: Frames of every video.
        height: Of the frames, in pixels.
        width: Likewise.
    """
    assert path.suffix == SYNTHETIC_SUFFIX, f"{path} has another suffix"
    write_record(path, {"num_frames": num_frames, "height": height, "width": width})


def synthetic_index(
    root: Path, *, classes: Sequence[str], videos: Mapping[str, int], num_frames: int
) -> VideoIndex:
    """An index of videos that are nowhere: how many of each split."""
    entries = [
        VideoEntry(
            id=f"{split}/{number:06d}",
            path=f"{split}/{number:06d}",
            labels=(number % len(classes),),
            split=split,
            num_frames=num_frames,
            fps=FPS,
        )
        for split, count in videos.items()
        for number in range(count)
    ]
    return VideoIndex(classes=tuple(classes), root=root, videos=tuple(entries))


@cache
def _texture(height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3), the same on every call."""
    shape = (1, 3, height // _GRAIN + 2, width // _GRAIN + 2)
    coarse = keyed_generator("texture", height, width).integers(0, 256, shape, dtype=np.uint8)
    fine = interpolate(torch.from_numpy(coarse).float(), size=(height, width), mode="bilinear")
    pixels: NDArray[np.uint8] = fine[0].permute(1, 2, 0).round().byte().contiguous().numpy()
    return pixels
