"""Cutting the views of a video: in slices, in two steps and in integers, always the same pixels."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.video import clips
from reskd.common.video.clips import cut_clips, cut_union, read_union
from reskd.common.video.integer_resize import resize_in_integers
from reskd.common.video.reader import VideoReader
from reskd.common.video.video_file import open_video
from reskd.common.video.views import ViewParams, draw_view
from tests.video_files import numbered_frames, write_video

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture
def video(tmp_path: Path) -> VideoReader:
    return open_video(write_video(tmp_path / "a.mp4", numbered_frames(11)), "pyav")


@pytest.fixture
def views(video: VideoReader) -> list[ViewParams]:
    spec = ViewSpec(count=3, short_side=40, size=32)
    return [
        draw_view(
            clip=ClipSpec(num_clips=4),
            views=spec,
            video_id="a",
            view=view,
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
        )
        for view in range(3)
    ]


@pytest.mark.parametrize("frames_at_once", [1, 2, 5])
def test_clips_cut_in_slices_are_those_cut_at_once(
    video: VideoReader,
    views: list[ViewParams],
    frames_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = cut_clips(video, views, size=32)
    limit = frames_at_once * video.height * video.width * 3 + 1
    monkeypatch.setattr(clips, "SLICE_BYTES", limit)
    assert torch.equal(cut_clips(video, views, size=32), whole)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("spare_bytes", [0, -1], ids=["source size", "short side"])
def test_clips_cut_in_integers_elsewhere_are_those_of_the_cpu(
    video: VideoReader, views: list[ViewParams], spare_bytes: int, device: str
) -> None:
    expected = cut_clips(video, views, size=32)
    num_frames = len({index for view in views for index in view.frame_indices})
    source_bytes = num_frames * video.height * video.width * 3
    union = read_union(video, views, most_bytes=source_bytes + spare_bytes)
    at_source = union.frames_NHW3.shape[1:3] == (video.height, video.width)
    assert at_source == (spare_bytes == 0)
    found = cut_union(union.to(torch.device(device)), views, size=32, resize=resize_in_integers)
    assert found.device.type == device
    assert torch.equal(found.cpu(), expected)


def test_one_view_cut_from_the_union_is_the_view_cut_alone(
    video: VideoReader, views: list[ViewParams]
) -> None:
    union = read_union(video, views)

    def alone(view: ViewParams) -> Tensor:
        return cut_clips(video, [view], size=32)

    for view in views:
        assert torch.equal(cut_union(union, [view], size=32), alone(view))
