"""The share of a decoding thread's time that `cache-teacher --preprocess device` takes off it.

    python -m tests.benchmarks.device_preprocess --json

Generated H.264 videos of 10 s at 25 frames per second, 340x256; one thread. Per recipe and number
of views, CPU time of what a thread does to a video, in turns:

- decode: the frames of all views, as with `--preprocess device`.
- cut: decode, and then short side, crop, the teacher's size and the student's frames.

`saved_share` is the part of cut that decode does without; the bytes are those that go to the device
for the frames over those of the clips. There is no target.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import torch

from reskd.common.console import emit, in_lines
from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.video.clips import cut_clips, read_union
from reskd.common.video.preprocess import shrink
from reskd.common.video.video_file import open_video
from reskd.common.video.views import ViewParams, draw_view
from tests.benchmarks.decode_once import FPS, SECONDS, moving_texture
from tests.benchmarks.timing import load
from tests.video_files import write_video

CLIPS: Final = {
    "tsn": ClipSpec(num_clips=8),
    "swin": ClipSpec(num_clips=1, clip_len=32, frame_interval=2),
}
VIEW_COUNTS = (4, 8)
ROUNDS = 7
SIZE, STUDENT_SIZE = 224, 112


def compare(path: Path, *, clip: ClipSpec, count: int, rounds: int) -> dict[str, float]:
    """Both ways on one video: CPU milliseconds, and what one saves of the other."""
    num_wanted = count * clip.num_frames
    with open_video(path, num_wanted=num_wanted) as video:
        views = [
            draw_view(
                clip=clip,
                views=ViewSpec(count=count),
                video_id=path.stem,
                view=view,
                num_frames=video.num_frames,
                height=video.height,
                width=video.width,
            )
            for view in range(count)
        ]
        sent = read_union(video, views, most_bytes=10**10).frames_NHW3.numel()
    ways = {
        name: partial(way, path, views, num_wanted)
        for name, way in (("decode", _decode), ("cut", _cut))
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            taken = _cpu_seconds(way)
            if turn:
                seconds[name].append(taken)
    shares = [1 - a / b for a, b in zip(seconds["decode"], seconds["cut"], strict=True)]
    return {
        "saved_share": median(shares),
        "decode_ms": median(seconds["decode"]) * 1e3,
        "cut_ms": median(seconds["cut"]) * 1e3,
        "bytes_over_clips": sent / (num_wanted * 3 * SIZE * SIZE),
    }


def _decode(path: Path, views: list[ViewParams], num_wanted: int) -> None:
    with open_video(path, num_wanted=num_wanted) as video:
        read_union(video, views, most_bytes=10**10)


def _cut(path: Path, views: list[ViewParams], num_wanted: int) -> None:
    with open_video(path, num_wanted=num_wanted) as video:
        shrink(cut_clips(video, views, size=SIZE), STUDENT_SIZE)


def _cpu_seconds(way: Callable[[], None]) -> float:
    """Of all threads: decord decodes in one of its own."""
    start = time.process_time()
    way()
    return time.process_time() - start


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Compare decoding with decoding and cutting."""
    before = load()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="bench-cut-") as folder:
        path = write_video(Path(folder) / "a.mp4", moving_texture(0, FPS * SECONDS), fps=FPS)
        result = {
            f"{name}, V = {count}": compare(path, clip=clip, count=count, rounds=ROUNDS)
            for name, clip in CLIPS.items()
            for count in VIEW_COUNTS
        }
    report: dict[str, Any] = {"recipes": result, "load": [before, load()]}
    lines = [
        f"{name}: {one['saved_share']:.2f} of {one['cut_ms']:.0f} ms saved; "
        f"{one['bytes_over_clips']:.2f} times the bytes go to the device"
        for name, one in result.items()
    ]
    emit(report, as_json=as_json, text=in_lines(*lines))


if __name__ == "__main__":
    main()
