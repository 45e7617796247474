"""Remembered videos read as the files do, and the budget is kept."""

from pathlib import Path

import numpy as np
import pytest

from reskd.common.video.frames_in_memory import FramesInMemory
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.video_file import open_video
from reskd.student_train.data.video_memory import VideoMemory
from tests.video_files import numbered_frames, write_video

VIDEO_BYTES = 8 * 80 * 96 * 3


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", numbered_frames(8))


def test_remembered_video_gives_the_file_s_frames_without_the_file(video: Path) -> None:
    with open_video(video, "pyav") as file:
        expected = file.frames([5, 0, 5])
        facts = (file.num_frames, file.height, file.width, file.fps)
    memory = VideoMemory(VIDEO_BYTES)
    memory.open(video, lambda: open_video(video, "pyav"))
    video.unlink()
    with memory.open(video, lambda: open_video(video, "pyav")) as kept:
        np.testing.assert_array_equal(kept.frames([5, 0, 5]), expected)
        assert (kept.num_frames, kept.height, kept.width, kept.fps) == facts


def test_video_over_the_budget_is_read_from_its_file_each_time(video: Path) -> None:
    memory = VideoMemory(VIDEO_BYTES - 1)
    assert not isinstance(memory.open(video, lambda: open_video(video, "pyav")), FramesInMemory)
    video.unlink()
    with pytest.raises(UnreadableVideoError):
        memory.open(video, lambda: open_video(video, "pyav"))


def test_budget_counts_every_kept_video(video: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "b.mp4", numbered_frames(8))
    memory = VideoMemory(2 * VIDEO_BYTES - 1)
    assert isinstance(memory.open(video, lambda: open_video(video, "pyav")), FramesInMemory)
    assert not isinstance(memory.open(other, lambda: open_video(other, "pyav")), FramesInMemory)
