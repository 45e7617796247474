"""Encoded images in a row, read as a video: a VideoReader without a video decoder."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reskd.common.dataset.frames.image_io import decode_one
from reskd.common.video.facts import UnreadableVideoError


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSequence:
    """A video whose frames are images; any of them costs the same, in any order."""

    path: Path
    """File or folder, for messages."""
    kind: str
    """What reads them, for messages."""
    num_frames: int
    height: int
    width: int
    fps: float
    """Kept frames per second, averaged; 0.0 where nobody said."""
    images: Callable[[Sequence[int]], Iterator[bytes]]
    """Encoded images of valid frame numbers; raises ValueError with what is wrong with one."""

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """See VideoReader.frames."""
        asked = np.asarray(indices, dtype=np.int64)
        if asked.size and asked.min() < 0:
            raise ValueError(f"frame numbers start at 0, got {asked.min()}")
        if asked.size and asked.max() >= self.num_frames:
            raise UnreadableVideoError(
                self.path,
                self.kind,
                f"frame {asked.max()} was asked for and {self.num_frames} frames are kept; views "
                "that were drawn from the video itself do not fit its kept frames",
            )
        wanted, place = np.unique(asked, return_inverse=True)
        pixels = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        coded = self.images(wanted.tolist())
        for row, number in enumerate(wanted.tolist()):
            pixels[row] = self._next_picture(coded, number)
        return pixels if np.array_equal(wanted, asked) else pixels[place]

    def _next_picture(self, coded: Iterator[bytes], number: int) -> NDArray[np.uint8]:
        try:
            picture = decode_one(next(coded))
        except ValueError as error:
            raise self._unreadable(number, str(error)) from None
        if picture.shape != (self.height, self.width, 3):
            found = f"{picture.shape[0]}x{picture.shape[1]}"
            raise self._unreadable(
                number, f"{found} pixels (height x width), not {self.height}x{self.width}"
            )
        return picture

    def _unreadable(self, number: int, reason: str) -> UnreadableVideoError:
        return UnreadableVideoError(self.path, self.kind, f"frame {number}: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None
