"""Videos whose packets are not all frames: what is imported is what is read afterwards."""

from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.frames.store import open_kept
from reskd.common.dataset.index import read_index
from reskd.common.video.video_file import open_video
from tests.video_cuts import copy_packets, key_places, num_packets
from tests.video_files import numbered_frames, write_video


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_cut_of_open_groups_is_imported_checked_and_extracted_alike(
    tmp_path: Path, decoder: str
) -> None:
    groups = "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"
    whole = write_video(tmp_path / "whole.mp4", numbered_frames(36), 25, **{"x264-params": groups})
    (tmp_path / "videos" / "only").mkdir(parents=True)
    cut = tmp_path / "videos" / "only" / "cut.mkv"
    copy_packets(whole, cut, first=key_places(whole)[-2], shift=None)
    index, frames = tmp_path / "index.jsonl", tmp_path / "frames.h5"

    def run(*words: object) -> int:
        return main(["dataset", *map(str, words)])

    options = ("--decoder", decoder)
    assert run("import", "folder", cut.parent.parent, "--out", index, "--val", 0, *options) == 0
    (video,) = read_index(index).videos
    assert 0 < video.num_frames == open_video(cut).num_frames < num_packets(cut)
    assert run("check", index, "--all", *options) == 0
    assert run("extract-frames", index, "--out", frames, "--fps", 25, *options) == 0
    assert open_kept(frames, video.id).num_frames == video.num_frames
