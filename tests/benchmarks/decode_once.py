"""What it saves to decode a video once for all of its views.

    python -m tests.benchmarks.decode_once --json

On generated H.264 videos of 10 s at 25 frames per second, 340x256, with views of 8 frames:

- union: as stage one does, one reader and one `cut_clips` for all V views.
- separate: a reader and a `cut_clips` for each view.

Both open the video, decode, resize, crop and give equal clips. `union_over_separate` is the speed
of union over that of separate (their times the other way round), per V; there is no target, the
number is what to expect of storing more views.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.console import emit, in_lines
from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.video.clips import cut_clips
from reskd.common.video.video_file import open_video
from reskd.common.video.views import ViewParams, draw_view
from tests.benchmarks.timing import interleaved, load, ratio
from tests.video_files import write_video

Cut = Callable[[Path, list[ViewParams]], Tensor]

HEIGHT, WIDTH = 256, 340
FPS = 25
SECONDS = 10
NUM_VIDEOS = 2
VIEW_COUNTS = (4, 8)
ROUNDS = 5


def moving_texture(seed: int, num_frames: int) -> NDArray[np.uint8]:
    """A window that wanders over a large random texture, with noise: (N, HEIGHT, WIDTH, 3).

    Neither flat nor noise alone: both would cost a decoder less or more than what people film.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (HEIGHT // 8 + 40, WIDTH // 8 + 40, 3), np.uint8)
    scene = coarse.repeat(8, axis=0).repeat(8, axis=1)
    reach = np.array(scene.shape[:2]) - (HEIGHT, WIDTH)
    way = (np.sin(np.arange(num_frames)[:, None] * rng.uniform(0.02, 0.06, 2)) + 1) / 2
    corners = (way * reach).astype(int)
    noise = rng.integers(0, 8, (HEIGHT, WIDTH, 3), np.uint8)
    return np.stack(
        [scene[top : top + HEIGHT, left : left + WIDTH] // 2 + noise for top, left in corners]
    )


def draw_views(path: Path, count: int) -> list[ViewParams]:
    """The first views of a video, as stage one draws them."""
    clip, views = ClipSpec(num_clips=8), ViewSpec(count=count)
    with open_video(path, "auto") as video:
        return [
            draw_view(
                clip=clip,
                views=views,
                video_id=path.stem,
                view=view,
                num_frames=video.num_frames,
                height=video.height,
                width=video.width,
            )
            for view in range(count)
        ]


def cut_union(path: Path, views: list[ViewParams]) -> Tensor:
    """All views from one decode."""
    with open_video(path, "auto") as video:
        return cut_clips(video, views, size=224)


def cut_separately(path: Path, views: list[ViewParams]) -> Tensor:
    """Every view from a decode of its own."""
    clips = []
    for view in views:
        with open_video(path, "auto") as video:
            clips.append(cut_clips(video, [view], size=224))
    return torch.cat(clips)


def compare(
    folder: Path, *, num_videos: int, num_frames: int, view_counts: tuple[int, ...], rounds: int
) -> dict[str, dict[str, float]]:
    """Write videos and cut them both ways, in turns.

    Returns:
        Per number of views the ratio and the milliseconds per video and view.
    """
    paths = [
        write_video(folder / f"{seed}.mp4", moving_texture(seed, num_frames), fps=FPS)
        for seed in range(num_videos)
    ]
    result = {}
    for count in view_counts:
        views = {path: draw_views(path, count) for path in paths}
        assert all(
            torch.equal(cut_union(path, views[path]), cut_separately(path, views[path]))
            for path in paths
        ), "the two ways give other clips"
        seconds = interleaved(
            {"union": _all(cut_union), "separate": _all(cut_separately)},
            views.items,
            rounds=rounds,
        )
        result[str(count)] = {
            "union_over_separate": ratio(seconds, "separate", "union"),
            **{
                f"{name}_ms_per_view": median(taken) / num_videos / count * 1e3
                for name, taken in seconds.items()
            },
        }
    return result


def _all(cut: Cut) -> Callable[[Iterable[tuple[Path, list[ViewParams]]]], object]:
    return lambda videos: [cut(path, views) for path, views in videos]


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Compare one decode for all views with a decode for each."""
    before = load()
    torch.set_num_threads(1)  # what resizing gains from further cores is not the question
    with TemporaryDirectory(prefix="bench-decode-") as folder:
        by_views = compare(
            Path(folder),
            num_videos=NUM_VIDEOS,
            num_frames=FPS * SECONDS,
            view_counts=VIEW_COUNTS,
            rounds=ROUNDS,
        )
    largest = by_views[str(max(VIEW_COUNTS))]
    result: dict[str, Any] = {
        "union_over_separate": largest["union_over_separate"],
        "views": by_views,
        "load": [before, load()],
    }
    lines = [
        "V = {}: one decode is {union_over_separate:.2f} times as fast as one per view "
        "({union_ms_per_view:.1f} against {separate_ms_per_view:.1f} ms per view)".format(
            count, **one
        )
        for count, one in by_views.items()
    ]
    emit(result, as_json=as_json, text=in_lines(*lines))


if __name__ == "__main__":
    main()
