"""A video as the rest of the program sees it: frames by number, whoever reads them.

Nothing here needs a decoder. Files are read in `video_file`, images kept of videos in
`dataset/frames`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

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


class FrameReader:
    """What readers share: the facts of a video, and the checks around reading its frames."""

    decoder: str
    """Who reads, for messages."""
    limit: ClassVar[str]
    """For messages: that there are {} frames, and what to do if more are asked for."""

    def __init__(self, path: Path, *, num_frames: int, height: int, width: int, fps: float) -> None:
        self.path = path
        self.num_frames = num_frames
        self.height = height
        self.width = width
        self.fps = fps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """See VideoReader.frames."""
        asked = np.asarray(indices, dtype=np.int64)
        shape = self.height, self.width, 3
        if asked.size == 0:
            return np.empty((0, *shape), dtype=np.uint8)
        if asked.min() < 0:
            raise ValueError(f"frame numbers start at 0, got {asked.min()}")
        if asked.max() >= self.num_frames:
            limit = self.limit.format(self.num_frames)
            raise self._unreadable(f"frame {asked.max()} was asked for and {limit}")
        wanted, place = np.unique(asked, return_inverse=True)
        decoded = self._decode([int(position) for position in wanted])
        if decoded.shape != (len(wanted), *shape):
            raise self._unreadable(
                f"{len(wanted)} frames of {shape} were expected, {decoded.shape} came out"
            )
        # Most requests are sorted and distinct: spare them a copy of all pixels.
        return decoded if np.array_equal(wanted, asked) else decoded[place]

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """Frames at sorted, distinct, valid positions."""
        raise NotImplementedError

    def _unreadable(self, reason: str) -> UnreadableVideoError:
        return UnreadableVideoError(self.path, self.decoder, reason)


def in_parts(indices: Sequence[int], video: VideoReader, *, most_bytes: int) -> list[Sequence[int]]:
    """Frame numbers cut into consecutive parts whose frames take a bounded memory.

    Args:
        indices: See VideoReader.frames.
        video: Says how large a frame is.
        most_bytes: Of the pixels of a part; but every part has at least one frame.
    """
    at_once = max(1, most_bytes // (video.height * video.width * 3))
    return [indices[start : start + at_once] for start in range(0, len(indices), at_once)]
