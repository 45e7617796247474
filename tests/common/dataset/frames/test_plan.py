"""Which frames are kept, how large they are, where they lie: values worked out on paper."""

from dataclasses import replace
from pathlib import Path

import pytest

from reskd.common.dataset.frames.plan import (
    FrameOptions,
    expected_frames,
    kept_frames,
    kept_size,
    plan_difference,
    plan_record,
    shard_paths,
    shards_of,
)
from reskd.common.dataset.index import VideoEntry

OPTIONS = FrameOptions(fps=4.0, image_format="jpg", quality=90, short_side=360)


@pytest.mark.parametrize(
    ("num_frames", "source_fps", "fps", "expected"),
    [
        # 6.25 frames a step: 0, 6.25, 12.5 (the later of two), 18.75, 25
        (26, 25.0, 4.0, [0, 6, 13, 19, 25]),
        (25, 25.0, 4.0, [0, 6, 13, 19]),
        # 7.4925 a step: 0, 7.49, 14.985, 22.48, 29.97
        (31, 30000 / 1001, 4.0, [0, 7, 15, 22, 30]),
        (12, 12.0, 4.0, [0, 3, 6, 9]),
        (12, 12.0, 8.0, [0, 2, 3, 5, 6, 8, 9, 11]),
        # Never enlarged: as many a second as there are, or fewer than asked for.
        (3, 4.0, 4.0, [0, 1, 2]),
        (3, 2.0, 4.0, [0, 1, 2]),
        (3, 25.0, None, [0, 1, 2]),
        (3, 0.0, None, [0, 1, 2]),
        (1, 60.0, 1.0, [0]),
        # 2.5 frames a step, and the third moment's nearest frame is not there: 0, 2.5, 5
        (5, 5.0, 2.0, [0, 3]),
        (100, 10.0, 0.1, [0]),
        (101, 10.0, 0.1, [0, 100]),
        (0, 25.0, 4.0, []),
    ],
)
def test_kept_frames_are_the_nearest_to_each_moment(
    num_frames: int, source_fps: float, fps: float | None, expected: list[int]
) -> None:
    assert list(kept_frames(num_frames, source_fps, fps)) == expected


def test_kept_frames_never_repeat_and_keep_their_rate() -> None:
    for source_fps in (5.0, 23.976, 25.0, 29.97, 59.94):
        for fps in (0.5, 1.0, 3.7, 4.9):
            kept = list(kept_frames(1000, source_fps, fps))
            assert len(set(kept)) == len(kept)
            assert kept == sorted(kept)
            assert abs(len(kept) - 1000 * fps / source_fps) <= 1


@pytest.mark.parametrize(
    ("height", "width", "short_side", "expected"),
    [
        (1080, 1920, 360, (360, 640)),
        (1920, 1080, 360, (640, 360)),
        (720, 1281, 360, (360, 641)),  # 640.5: halves go up
        (480, 853, 360, (360, 640)),  # 639.75
        (240, 320, 360, (240, 320)),
        (360, 640, 360, (360, 640)),
        (1080, 1920, None, (1080, 1920)),
    ],
)
def test_kept_size_cuts_the_shorter_side_and_never_enlarges(
    height: int, width: int, short_side: int | None, expected: tuple[int, int]
) -> None:
    assert kept_size(height, width, short_side) == expected


def entry(name: str, num_frames: int, fps: float = 8.0) -> VideoEntry:
    return VideoEntry(
        id=name, path=name, labels=(0,), split="train", num_frames=num_frames, fps=fps
    )


def test_shards_of_take_videos_while_they_fit() -> None:
    # Kept: 4, 5, 1, 20, 0 and 2 of 10 at most.
    entries = [entry(str(n), n) for n in (8, 10, 2, 40, 0, 4)]
    assert [expected_frames(one, OPTIONS) for one in entries] == [4, 5, 1, 20, 0, 2]
    assert shards_of(entries, OPTIONS, 10) == [3, 1, 2]
    assert shards_of(entries[:1], OPTIONS, 10) == [1]
    assert expected_frames(entry("x", 7, fps=0.0), OPTIONS) == 7


def test_shard_paths_number_files_only_where_there_are_several() -> None:
    path = Path("a/frames.h5")
    assert shard_paths(path, 1) == [path]
    assert shard_paths(path, 12)[3] == Path("a/frames-00003-of-00012.h5")


def test_plan_tells_what_differs() -> None:
    entries = [entry("a", 8), entry("b", 10)]
    plan = plan_record(entries, OPTIONS, split=None, decoder="auto", shards=[2])
    assert plan_difference(plan, plan) is None
    other = plan_record(
        entries, replace(OPTIONS, quality=80), split=None, decoder="auto", shards=[2]
    )
    assert plan_difference(other, plan) == "quality was 80, now it is 90"
    longer = [entries[0], replace(entries[1], num_frames=11)]
    other = plan_record(longer, OPTIONS, split=None, decoder="auto", shards=[2])
    assert (plan_difference(other, plan) or "").startswith("index was")
