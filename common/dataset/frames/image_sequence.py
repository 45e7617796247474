"""Encoded images in a row, read as a video: a VideoReader without a video decoder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reskd.common.dataset.frames.image_io import decode_one
from reskd.common.dataset.frames.tables import StoredFacts
from reskd.common.video.frame_reader import FrameReader
from reskd.common.video.reader import UnreadableVideoError

Images = Callable[[Sequence[int]], Iterator[bytes]]
"""Encoded images of valid frame numbers; raises ValueError with what is wrong with one."""


class ImageSequence(FrameReader):
    """A video whose frames are images; any of them costs the same, in any order.

    Args:
        path: File or folder, for messages.
        kind: What reads them, for messages.
        facts: Number, size and rate of the images.
        images: Gives them.
        root: Where the images of all videos are.
    """

    limit = (
        "{} frames are kept; views that were drawn from the video itself do not fit its kept frames"
    )

    def __init__(
        self,
        path: Path,
        kind: str,
        facts: StoredFacts,
        images: Images,
        root: Path | None = None,
    ) -> None:
        super().__init__(
            path,
            num_frames=facts.num_frames,
            height=facts.height,
            width=facts.width,
            fps=facts.fps,
        )
        self.decoder, self.root = kind, root
        self._images = images

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        pixels = np.empty((len(positions), self.height, self.width, 3), np.uint8)
        coded = self._images(positions)
        for row, number in enumerate(positions):
            try:
                picture = decode_one(next(coded))
            except ValueError as error:
                raise self._bad_frame(number, str(error)) from None
            if picture.shape != pixels.shape[1:]:
                found = f"{picture.shape[0]}x{picture.shape[1]}"
                raise self._bad_frame(
                    number, f"{found} pixels (height x width), not {self.height}x{self.width}"
                )
            pixels[row] = picture
        return pixels

    def _bad_frame(self, number: int, reason: str) -> UnreadableVideoError:
        return self._unreadable(f"frame {number}: {reason}")
