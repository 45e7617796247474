"""Decoded videos kept in memory, for training sets that fit: later epochs decode nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reskd.common.video.reader import VideoReader


@dataclass(frozen=True, slots=True)
class RememberedVideo:
    """A video whose frames are all in memory; read like any other `VideoReader`."""

    all_frames: NDArray[np.uint8]
    """(N, H, W, 3) RGB."""
    fps: float

    @property
    def num_frames(self) -> int:
        return len(self.all_frames)

    @property
    def height(self) -> int:
        return int(self.all_frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.all_frames.shape[2])

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """See VideoReader.frames."""
        return self.all_frames[list(indices)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class VideoMemory:
    """Opens videos; those that fit into the budget are decoded whole and kept.

    Args:
        budget_bytes: For the pixels of all kept videos; 0 keeps none.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._free_bytes = budget_bytes
        self._kept: dict[Path, RememberedVideo] = {}

    def open(self, path: Path, open_file: Callable[[], VideoReader]) -> VideoReader:
        """The video at a path; which pixels come out never depends on the budget.

        Args:
            path: Name that it is remembered by.
            open_file: Opens it where it is not.

        Raises:
            UnreadableVideoError: If it is not a whole, decodable video.
        """
        if path in self._kept:
            return self._kept[path]
        video = open_file()
        num_bytes = video.num_frames * video.height * video.width * 3
        if num_bytes > self._free_bytes:
            return video
        kept = RememberedVideo(video.frames(range(video.num_frames)), video.fps)
        self._free_bytes -= num_bytes
        self._kept[path] = kept
        return kept
