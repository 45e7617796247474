"""What validations after the first one spend on obtaining their clips.

    python -m tests.benchmarks.kept_clips --json

All clips of a split, 8 frames of 112 px from 10 s of 340x256 H.264, are asked for as measuring a
network asks for them, in three ways in turn:

- decoded: nothing is kept.
- first: nothing is kept yet; they are decoded, written and read back.
- later: they are kept.

`later_over_first` (at most 0.05) is what the second and every further validation takes of the first
one's time for clips, `first_over_decoded` what keeping costs the first one. Files are in memory.
"""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import click
import torch

from reskd.common.console import emit
from reskd.common.dataset.importing.pipeline import import_folder
from reskd.common.dataset.index import read_index
from reskd.common.experiment import ClipSpec, DataSpec, EvaluationSpec, ViewSpec
from reskd.common.prefetch import ordered_map
from reskd.common.signals import StopRequest
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.clip_reader import Reading, decode_threads
from reskd.student_train.evaluate.kept_clips import clip_source
from reskd.student_train.evaluate.videos import Videos
from tests.benchmarks.decode_once import FPS, SECONDS, moving_texture
from tests.benchmarks.timing import interleaved, load, ratio
from tests.video_files import write_video

ALONE = ProcessGroup(torch.device("cpu"))


def make_videos(folder: Path, *, num_videos: int, num_frames: int) -> Videos:
    """Write videos and their index."""
    for number in range(num_videos):
        path = folder / "videos" / f"class-{number % 2}" / f"{number}.mp4"
        write_video(path, moving_texture(number, num_frames), fps=FPS)
    index_path = folder / "index.jsonl"
    import_folder(folder / "videos", index_path, val_fraction=0.0)
    index = read_index(index_path)
    return Videos(
        index=index,
        index_path=index_path,
        split="train",
        entries=index.split("train"),
        data=DataSpec(index=index_path),
        reading=Reading(
            clip=ClipSpec(num_clips=8),
            views=ViewSpec(count=1),
            evaluation=EvaluationSpec(),
            size=112,
        ),
        score_activation="softmax",
    )


def obtain(videos: Videos, keeping: ClipKeeping | None) -> None:
    """Ask for every clip once, in order, a few at a time."""
    with clip_source(videos, keeping, ALONE, StopRequest()) as clips_of:
        for clip in ordered_map(clips_of, range(len(videos.entries)), threads=decode_threads()):
            assert not isinstance(clip, str), clip


def compare(videos: Videos, folder: Path, *, rounds: int) -> dict[str, float]:
    """Both ratios."""
    usual, fresh = ClipKeeping(), ClipKeeping(folder=folder / "fresh")
    obtain(videos, usual)
    contenders: dict[str, Callable[[None], None]] = {
        "decoded": lambda _: obtain(videos, None),
        "first": lambda _: obtain(videos, fresh),
        "later": lambda _: obtain(videos, usual),
    }

    def forget() -> None:
        rmtree(folder / "fresh", ignore_errors=True)

    seconds = interleaved(contenders, forget, rounds=rounds)
    return {
        "later_over_first": ratio(seconds, "later", "first"),
        "first_over_decoded": ratio(seconds, "first", "decoded"),
        "videos": len(videos.entries),
        "threads": decode_threads(),
    }


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, as_json: bool) -> None:
    """Compare validations whose clips are kept with those that decode them."""
    before = load()
    with TemporaryDirectory(prefix="bench-test-clips-") as name:
        folder = Path(name)
        videos = make_videos(folder, num_videos=32, num_frames=FPS * SECONDS)
        result = compare(videos, folder, rounds=rounds)
    text = (
        "clips of a later validation over the first's: {later_over_first:.3f}, of the first over "
        "one that keeps none: {first_over_decoded:.2f}"
    ).format_map(result)
    emit({**result, "load": [before, load()]}, as_json=as_json, text=text)


if __name__ == "__main__":
    main()
