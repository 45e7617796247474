"""Made-up frames behave as those of any other store."""

from pathlib import Path

import numpy as np
import pytest

from reskd.common.dataset.frames.store import open_kept, store_identity
from reskd.common.dataset.frames.synthetic import write_synthetic
from reskd.common.video.reader import UnreadableVideoError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "frames.synthetic"
    write_synthetic(path, num_frames=50, height=24, width=36)
    return path


def test_frames_have_the_stated_size_and_differ_by_number_and_video(store: Path) -> None:
    video, other = open_kept(store, "a"), open_kept(store, "b")
    assert (video.num_frames, video.height, video.width) == (50, 24, 36)
    frames = video.frames(range(50))
    assert frames.shape == (50, 24, 36, 3)
    assert len({frame.tobytes() for frame in [*frames, other.frames([0])[0]]}) == 51
    assert frames.std() > 20


def test_frames_are_the_same_whenever_they_are_asked_for(store: Path) -> None:
    first = open_kept(store, "a").frames([3, 1, 3])
    np.testing.assert_array_equal(first, open_kept(store, "a").frames(range(4))[[3, 1, 3]])


def test_frame_beyond_the_end_is_refused(store: Path) -> None:
    with pytest.raises(UnreadableVideoError, match="frame 50 was asked for and 50 are made up"):
        open_kept(store, "a").frames([50])


def test_identity_follows_videos_and_description(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.synthetic"
    write_synthetic(other, num_frames=51, height=24, width=36)
    known = store_identity(store, ["a", "b"])
    assert known == store_identity(store, ["a", "b"])
    assert known != store_identity(store, ["a"])
    assert known != store_identity(other, ["a", "b"])
