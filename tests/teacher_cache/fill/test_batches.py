"""Which clips go together: whole batches over the borders of videos, each clip once, in order."""

import pytest
import torch

from reskd.common.dataset.index import VideoEntry
from reskd.common.distill.teacher import BATCH_GROUP
from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.video.views import draw_view
from reskd.teacher_cache.fill.batches import (
    CLIPS_OF_ONE_VIDEO,
    ClipBatch,
    across_videos,
    by_video,
    in_groups,
)
from reskd.teacher_cache.fill.cut import CutTask, CutVideo, look_ahead

Seen = list[tuple[int, int]]


def videos(count: int, views: int) -> list[CutVideo]:
    """Videos whose clips hold their own number and view."""
    params = draw_view(
        clip=ClipSpec(num_clips=1),
        views=ViewSpec(count=views),
        video_id="a",
        view=0,
        num_frames=9,
        height=300,
        width=300,
    )
    made = []
    for place in range(count):
        entry = VideoEntry(
            id=str(place), path=str(place), labels=(0,), split="train", num_frames=9, fps=1.0
        )
        drawn = dict.fromkeys(range(views), params)
        pixels = torch.tensor([[100 * place + view] for view in range(views)])
        task = CutTask(place, entry, range(views))
        made.append(CutVideo(task=task, params=drawn, clips_VT3HW=pixels))
    return made


def kept(batches: list[ClipBatch]) -> Seen:
    return [(clip.place, clip.view) for batch in batches for clip in batch.clips]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("views", [1, 3, 8, 11])
@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_batches_across_videos_are_full_and_hold_each_clip_once(
    count: int, views: int, size: int
) -> None:
    batches = list(across_videos(videos(count, views), size))
    assert kept(batches) == [(place, view) for place in range(count) for view in range(views)]
    assert {len(batch.pixels) for batch in batches} <= {size}
    assert all(not batch.fillers for batch in batches[:-1])
    for batch in batches:
        assert [int(pixels) for pixels in batch.pixels][: len(batch.clips)] == [
            100 * clip.place + clip.view for clip in batch.clips
        ]
    last = [clip.place for batch in batches for clip in batch.clips if clip.last]
    assert last == list(range(count))


@pytest.mark.parametrize("views", [1, 8, 11])
def test_batches_by_video_are_those_of_before(views: int) -> None:
    batches = list(by_video(videos(3, views)))
    assert kept(batches) == [(place, view) for place in range(3) for view in range(views)]
    for batch in batches:
        assert len({clip.place for clip in batch.clips}) == 1
        assert len(batch.pixels) <= CLIPS_OF_ONE_VIDEO
        assert not batch.fillers


@pytest.mark.parametrize("count", [1, BATCH_GROUP, BATCH_GROUP + 3])
def test_groups_hold_one_view_of_each_video_and_are_filled_from_the_front(count: int) -> None:
    batches = list(in_groups(videos(count, 2)))
    assert sorted(kept(batches)) == [(place, view) for place in range(count) for view in range(2)]
    for batch in batches:
        assert len({clip.view for clip in (*batch.clips, *batch.fillers)}) == 1
        assert len(batch.pixels) == min(count, BATCH_GROUP)
        assert [clip.place for clip in batch.fillers] == list(range(len(batch.fillers)))


@pytest.mark.parametrize(
    ("threads", "video_bytes", "most_bytes", "expected"),
    [
        pytest.param(16, 1, 10**9, 64, id="four per thread"),
        pytest.param(16, 60_000_000, 2 * 10**9, 32, id="bytes end before"),
        pytest.param(16, 10**9, 10**9, 2, id="two at least"),
        pytest.param(1, 1, 10**9, 4, id="one thread"),
    ],
)
def test_look_ahead_is_four_per_thread_unless_bytes_end_before(
    threads: int, video_bytes: int, most_bytes: int, expected: int
) -> None:
    found = look_ahead(threads, video_bytes, most_bytes)
    assert found == expected
    # One more video is in memory, the one that was handed on last.
    assert (found + 1) * video_bytes <= max(most_bytes, 3 * video_bytes)
