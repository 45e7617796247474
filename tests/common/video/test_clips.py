"""Cutting the views of a video in slices gives the same pixels."""

from pathlib import Path

import pytest
import torch

from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.video import clips
from reskd.common.video.video_file import open_video
from reskd.common.video.views import draw_view
from tests.video_files import numbered_frames, write_video


def test_clips_cut_in_slices_are_those_cut_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ViewSpec(count=3, short_side=40, size=32)
    with open_video(write_video(tmp_path / "a.mp4", numbered_frames(11)), "pyav") as video:
        facts = {"num_frames": 11, "height": video.height, "width": video.width}
        views = [
            draw_view(clip=ClipSpec(num_clips=4), views=spec, video_id="a", view=view, **facts)
            for view in range(3)
        ]
        whole = clips.cut_clips(video, views, size=32)
        for frames_at_once in (1, 2, 5):
            limit = frames_at_once * video.height * video.width * 3 + 1
            monkeypatch.setattr(clips, "SLICE_BYTES", limit)
            assert torch.equal(clips.cut_clips(video, views, size=32), whole)
