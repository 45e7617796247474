"""What Ray costs: workers that are its actors against those that are processes of this machine.

    python -m tests.benchmarks.ray_workers --json

ResNet-50 at 224 px, as `configs/folder_r50.yaml` has it, in float32 on made-up frames, which take
no decoding; a worker for each core, with one thread that decodes and one of torch. Both take turns,
each filling a new cache from the start of its workers to the last record; Ray itself runs before.

- ray over local: times as long as local workers Ray takes, the median of the rounds. At most 1.1 is
  wanted, for units of half a minute.
"""

import os
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

from reskd.common.console import emit
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.common.prefetch import num_cores
from reskd.common.synthetic import synthetic_experiment
from reskd.teacher_cache.fill.cluster import RayOptions, reached
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.plan import plan_cache
from tests.benchmarks.timing import interleaved, load, ratio

CLASSES = 10


def compare(
    folder: Path, *, backbone: str, size: int, videos: int, views: int, rounds: int
) -> dict[str, Any]:
    """All figures; needs a cluster that is reached."""
    model = f"model={{backbone: {backbone}}}"
    overrides = [f"teacher.{model}", f"student.{model}", "teacher.precision=float32"]
    overrides += [f"views.size={size}", f"views.short_side={size}", f"student.size={size // 2}"]
    experiment = synthetic_experiment(
        load_experiment("folder_r50", overrides),
        folder,
        videos=videos,
        views=views,
        frame_size=(size, size),
        num_classes=CLASSES,
    )
    index = read_index(experiment.data.index)
    plan = plan_cache(experiment, index, memory_bytes=2 * 10**9)
    workers, cpu = num_cores(), torch.device("cpu")

    def new() -> Path:
        rmtree(folder / "cache", ignore_errors=True)
        return folder / "cache"

    def run(cache: Path, **where: Any) -> None:
        options = RunOptions(max_bad=0.0, threads=workers, device=cpu, force=True, **where)
        run_cache_teacher(experiment, plan, cache, options)

    taken = interleaved(
        {
            "local": lambda cache: run(cache, devices=(cpu,) * workers),
            "ray": lambda cache: run(cache, ray=RayOptions(device="cpu", threads=1)),
        },
        new,
        rounds=rounds,
        warmups=0,
    )
    new()
    return {
        "ray over local": ratio(taken, "ray", "local"),
        "seconds of a unit": median(taken["local"]) * workers / plan.layout.num_units,
        "seconds": taken,
        "units": plan.layout.num_units,
        "workers": workers,
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--videos", default=6, show_default=True)
@click.option("--views", default=12, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(as_json: bool, videos: int, views: int, rounds: int) -> None:
    """Fill a cache by processes of this machine and by actors of Ray, in turns."""
    before, threads = load(), torch.get_num_threads()
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's is 15, and others may be at work here
    torch.set_num_threads(num_cores())
    try:
        with TemporaryDirectory(prefix="ray-workers-") as folder, reached(RayOptions()):
            figures = compare(
                Path(folder),
                backbone="resnet50",
                size=224,
                videos=videos,
                views=views,
                rounds=rounds,
            )
    finally:
        torch.set_num_threads(threads)
    figures |= {"cores": os.cpu_count(), "load": [before, load()]}
    text = "\n".join(f"{name:<20}{value}" for name, value in figures.items())
    emit(figures, as_json=as_json, text=text)


if __name__ == "__main__":
    main()
