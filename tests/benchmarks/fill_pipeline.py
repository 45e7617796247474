"""What the pipeline of stage one costs beside the teacher, and how busy it keeps its decoders.

    python -m tests.benchmarks.fill_pipeline --json

- cost_resnet50, cost_test_resnet: processor seconds of `fill_units` less those of decoding and
  cutting the same clips alone, over those of the teacher's forward passes alone in the same
  batches; all three in turns, 64 clips of 224 px, on one core with one torch thread: threads that
  wait for each other turn in loops, and two on one core's halves slow each other down, both of
  which would count as work. At most 1.05 and 1.15 is wanted. The median of the rounds.
- busy_0.5, busy_0.9: share of the time that 16 decoders work which sleep for times that are
  log-normally distributed with that sigma, handed on in order with the look-ahead of stage one. At
  least 0.9 and 0.7 is wanted. drained_...: the same with the look-ahead of before, threads + 2, and
  a pool that ends with every 64 videos.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import click
import numpy as np
import torch

from reskd.common.console import emit, in_lines, say
from reskd.common.dataset.importing.pipeline import import_folder
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.prefetch import ordered_map
from reskd.teacher_cache.fill.batches import across_videos
from reskd.teacher_cache.fill.cut import CutTask, cut_videos, look_ahead
from reskd.teacher_cache.fill.job import Job, RunOptions, teacher_for
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.opening import new_cache
from reskd.teacher_cache.fill.pipeline.fill_units import fill_units
from reskd.teacher_cache.format.layout import DECODED_BYTES
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.format.plan import plan_cache
from tests.benchmarks.decode_once import FPS, moving_texture
from tests.benchmarks.timing import load
from tests.tiny_experiment import save_random_teacher
from tests.video_files import write_video

CPU: Final = torch.device("cpu")
VIEWS: Final = 4
WORKERS: Final = 16
UNIT_VIDEOS: Final = 64


def cost(folder: Path, *, backbone: str, num_videos: int, num_frames: int, rounds: int) -> float:
    """Processor time of all but decoding, in those of the teacher alone."""
    job, run = _prepare(folder, backbone=backbone, num_videos=num_videos, num_frames=num_frames)
    views = range(VIEWS)
    tasks = [CutTask(place, entry, views) for place, entry in job.entries.items()]
    teacher, batches = run.teacher, list(across_videos(cut_videos(job.source, tasks), 8))
    stacked = [torch.stack(batch.pixels) for batch in batches]
    whole, decode, forward = (
        lambda: run.fill(),
        lambda: [None for _ in cut_videos(job.source, tasks)],
        lambda: [teacher.predict(clips) for clips in stacked],
    )
    found = []
    for turn in range(1 + rounds):
        seconds = [_processor_seconds(work) for work in (whole, decode, forward)]
        if turn:
            found.append((seconds[0] - seconds[1]) / seconds[2])
    return median(found)


class _Run:
    """A cache that is filled again and again."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self._folder, self._number = job, folder, 0
        experiment = job.experiment
        model, self._checkpoint = load_checkpoint(experiment.teacher.checkpoint)
        self._plan = plan_cache(experiment, job.index, memory_bytes=2 * 10**9)
        self.teacher = teacher_for(experiment, model, self._new(), CPU)

    def _new(self) -> Manifest:
        rmtree(self._folder / str(self._number), ignore_errors=True)
        self._number += 1
        job = self._job
        folder = self._folder / str(self._number)
        self._job = replace(job, folder=folder)
        new_cache(job.experiment, job.index, folder, self._plan, self._checkpoint)
        return read_manifest(folder)

    def fill(self) -> None:
        """Fill it once."""
        manifest = self._new()
        units, first = range(manifest.layout.num_units), manifest.generations[0]
        fill_units(self._job, manifest, first, units, self.teacher, meters=FillMeters())


def _prepare(folder: Path, *, backbone: str, num_videos: int, num_frames: int) -> tuple[Job, _Run]:
    for number in range(num_videos):
        path = folder / "videos" / f"class-{number % 2}" / f"{number}.mp4"
        write_video(path, moving_texture(number, 3 * num_frames), fps=FPS)
    import_folder(folder / "videos", folder / "index.jsonl", val_fraction=0.0)
    file = folder / "experiment.yaml"
    file.write_text(
        f"""name: pipeline
data: {{index: index.jsonl}}
clip: {{num_clips: {num_frames}}}
views: {{count: {VIEWS}}}
teacher: {{model: {{backbone: {backbone}}}, checkpoint: teacher}}
student: {{model: {{backbone: {backbone}}}, size: 112, training: {{epochs: 1, batch_size: 4}}}}
""",
        encoding="utf-8",
    )
    experiment = load_experiment(str(file))
    save_random_teacher(experiment, seed=0)
    index = read_index(experiment.data.index)
    job = Job(
        experiment=experiment,
        index=index,
        entries=dict(enumerate(index.split("train"))),
        folder=folder,
        options=RunOptions(max_bad=0.0, threads=1, device=CPU, force=True),
    )
    return job, _Run(job, folder / "caches")


def _processor_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def busy(sigma: float, *, items: int, ahead: int, drain: int | None, seconds: float) -> float:
    """Share of the time that sleeping workers sleep.

    Args:
        sigma: Of the logarithm of the times.
        items: Number of videos.
        ahead: Look-ahead.
        drain: Videos after which a pool ends; None keeps one for all.
        seconds: Median time of a video.
    """
    times = seconds * np.random.default_rng(0).lognormal(0.0, sigma, items)
    start = time.perf_counter()
    for first in range(0, items, drain or items):
        part: Iterable[float] = times[first : first + (drain or items)]
        for _ in ordered_map(time.sleep, part, threads=WORKERS, ahead=ahead):
            pass
    return float(times.sum()) / WORKERS / (time.perf_counter() - start)


def decoders(*, items: int, seconds: float) -> dict[str, float]:
    """How busy decoders are, with the look-ahead of now and of before."""
    ahead = look_ahead(WORKERS, 1, DECODED_BYTES)
    return {
        f"{name}_{sigma}": busy(sigma, items=items, ahead=most, drain=drain, seconds=seconds)
        for sigma in (0.5, 0.9)
        for name, most, drain in (
            ("busy", ahead, None),
            ("drained", WORKERS + 2, UNIT_VIDEOS),
        )
    }


def compare(
    folder: Path, *, backbones: Iterable[str], num_videos: int, num_frames: int, rounds: int
) -> dict[str, float]:
    """All figures of the first kind."""
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return {
            f"cost_{backbone}": cost(
                folder / backbone,
                backbone=backbone,
                num_videos=num_videos,
                num_frames=num_frames,
                rounds=rounds,
            )
            for backbone in backbones
        }
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--backbone", "backbones", multiple=True, default=("resnet50", "test_resnet"))
@click.option("--frames", default=4, show_default=True, help="Frames of a clip.")
@click.option("--rounds", default=3, show_default=True)
def main(as_json: bool, backbones: tuple[str, ...], frames: int, rounds: int) -> None:
    """Measure what the pipeline costs, and how busy it keeps its decoders."""
    before = load()
    with TemporaryDirectory() as folder:
        figures = compare(
            Path(folder), backbones=backbones, num_videos=16, num_frames=frames, rounds=rounds
        )
    figures |= decoders(items=1000, seconds=0.01)
    say(f"load of the machine: {before:.1f} before, {load():.1f} after")
    text = in_lines(*(f"{name:<20}{value:>8.3f}" for name, value in figures.items()))
    emit({**figures, "load": [before, load()]}, as_json=as_json, text=text)


if __name__ == "__main__":
    main()
