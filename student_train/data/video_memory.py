"""Decoded videos kept in memory, for training sets that fit: later epochs decode nothing."""

from collections.abc import Callable
from pathlib import Path

from reskd.common.video.frames_in_memory import FramesInMemory
from reskd.common.video.reader import VideoReader


class VideoMemory:
    """Opens videos; those that fit into the budget are decoded whole and kept.

    Args:
        budget_bytes: For the pixels of all kept videos; 0 keeps none.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._free_bytes = budget_bytes
        self._kept: dict[Path, FramesInMemory] = {}

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
        kept = FramesInMemory(video.frames(range(video.num_frames)), video.fps)
        self._free_bytes -= num_bytes
        self._kept[path] = kept
        return kept
