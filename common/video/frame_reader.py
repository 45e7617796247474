"""What readers of videos share: the facts, the checks around frames, what a failure means."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from reskd.common.video.attempts import settled
from reskd.common.video.reader import UnreadableVideoError

T = TypeVar("T")


class FrameReader:
    """What readers share: the facts of a video, and the checks around reading its frames."""

    decoder: str
    """Who reads, for messages."""
    limit: ClassVar[str]
    """For messages: that there are {} frames, and what to do if more are asked for."""

    root: Path | None = None
    """Folder of all videos, if this is one of an index."""

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
        decoded = self.settled(lambda: self.frames_once([int(position) for position in wanted]))
        # Most requests are sorted and distinct: spare them a copy of all pixels.
        return decoded if np.array_equal(wanted, asked) else decoded[place]

    def frames_once(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """One attempt at frames, which may raise anything.

        Args:
            positions: Sorted, distinct, valid.
        """
        decoded, shape = self._decode(positions), (len(positions), self.height, self.width, 3)
        if decoded.shape != shape:
            raise self._unreadable(
                f"{len(positions)} frames of {shape[1:]} were expected, {decoded.shape} came out"
            )
        return decoded

    def settled(self, ask: Callable[[], T]) -> T:
        """Ask the file something until it is clear whose failure a failure is (attempts.py)."""
        return settled(ask, self.path, self.decoder, self.root)

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """Frames at sorted, distinct, valid positions."""
        raise NotImplementedError

    def _unreadable(self, reason: str) -> UnreadableVideoError:
        return UnreadableVideoError(self.path, self.decoder, reason)
