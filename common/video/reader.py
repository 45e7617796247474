"""A video as the rest of the program sees it: frames by number, whoever reads them.

Nothing here needs a decoder. Files are read in `video_file`, images kept of videos in
`dataset/frames`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from reskd.common.errors import DataError

Decoder = Literal["auto", "decord", "pyav"]


class UnreadableVideoError(DataError):
    """A video, or a frame of it, that cannot be decoded."""

    def __init__(self, path: Path, decoder: str, reason: str) -> None:
        super().__init__(f"{path} cannot be read by {decoder}: {reason}")
        self.path = path
        self.decoder = decoder
        self.reason = reason

    def __reduce__(self) -> tuple[type[Self], tuple[Path, str, str]]:
        return type(self), (self.path, self.decoder, self.reason)


class VideoReader(Protocol):
    """One video. Holds no open file, so it may be kept, and used by several threads."""

    @property
    def num_frames(self) -> int: ...
    @property
    def height(self) -> int:
        """Pixels, after rotation."""

    @property
    def width(self) -> int:
        """Pixels, after rotation."""

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the video; 0.0 where the file does not say."""

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Decode some frames.

        Args:
            indices: Frame numbers in [0, num_frames), any order, repetitions allowed.

        Returns:
            (len(indices), H, W, 3) RGB, upright, in the order asked.

        Raises:
            UnreadableVideoError: If one of them does not exist or cannot be decoded.
            ValueError: If an index is negative.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


def in_parts(indices: Sequence[int], video: VideoReader, *, most_bytes: int) -> list[Sequence[int]]:
    """Frame numbers cut into consecutive parts whose frames take a bounded memory.

    Args:
        indices: See VideoReader.frames.
        video: Says how large a frame is.
        most_bytes: Of the pixels of a part; but every part has at least one frame.
    """
    at_once = max(1, most_bytes // (video.height * video.width * 3))
    return [indices[start : start + at_once] for start in range(0, len(indices), at_once)]
