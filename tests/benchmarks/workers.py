"""What a second worker on the CPU gains, and how well `reskd cache plan` foretells both.

    python -m tests.benchmarks.workers --json

ResNet-50 at 224 px, as `configs/folder_r50.yaml` has it, in float32 on made-up frames, which take
no decoding; every worker has one thread that decodes and one of torch. One worker and two take
turns, each filling a new cache from the start of its process to the last record; then the speeds of
one worker are measured as `cache plan` does, and the times of both are worked out from them.

- gain: times as long as two workers one takes, the median of the rounds. At least 1.7 is wanted, of
  a machine with two free cores.
- foretold_1, foretold_2: seconds that were worked out, over those taken; the medians.
"""

import os
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import torch

from reskd.common.console import emit, say
from reskd.common.dataset.index import read_index
from reskd.common.experiment import Experiment
from reskd.common.experiment.load import load_experiment
from reskd.common.prefetch import num_cores
from reskd.common.synthetic import synthetic_experiment
from reskd.teacher_cache.estimate.hours import Checks, predict_hours
from reskd.teacher_cache.estimate.machines import Machines
from reskd.teacher_cache.estimate.measure_speed import measure_speed
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.plan import CachePlan, plan_cache
from tests.benchmarks.timing import interleaved, load, ratio

CPU: Final = torch.device("cpu")
CLASSES: Final = 10


class _Fill:
    """One experiment, cached again and again."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self._experiment, self._folder = experiment, folder
        self._index = read_index(experiment.data.index)
        self.plan: CachePlan = plan_cache(experiment, self._index, memory_bytes=2 * 10**9)
        self.foretold: dict[int, list[float]] = {1: [], 2: []}

    def new(self) -> Path:
        """Where the next cache will be; the one before it is gone, its locks and its log too."""
        rmtree(self._folder / "caches", ignore_errors=True)
        return self._folder / "caches" / "cache"

    def run(self, cache: Path, workers: int) -> None:
        """Fill it by so many processes."""
        options = RunOptions(
            max_bad=0.0, threads=workers, device=CPU, devices=(CPU,) * workers, force=True
        )
        run_cache_teacher(self._experiment, self.plan, cache, options)

    def foretell(self, seconds: float) -> None:
        """Measure one worker, and work out what one and two will take."""
        measured = measure_speed(
            self._experiment,
            self._index,
            self.plan,
            parent=self._folder,
            device=CPU,
            threads=1,
            seconds=seconds,
        )
        for workers, found in self.foretold.items():
            machines = Machines(devices=workers, teacher_threads=1, cores=num_cores())
            hours = predict_hours(self.plan.work, measured, machines=machines, checks=Checks())
            say(f"{workers}: {hours.wall * 3600:.1f} s foretold, bound by {hours.bound}")
            found.append(hours.wall * 3600)


def compare(
    folder: Path, *, backbone: str, size: int, videos: int, views: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """All figures."""
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
    fill = _Fill(experiment, folder)
    taken: dict[str, list[float]] = {"one": [], "two": []}
    contenders = {"one": lambda cache: fill.run(cache, 1), "two": lambda cache: fill.run(cache, 2)}
    for _ in range(rounds):
        turn = interleaved(contenders, fill.new, rounds=1, warmups=0)
        for name, found in turn.items():
            taken[name] += found
        fill.foretell(seconds)
    fill.new()
    return {
        "gain": ratio(taken, "one", "two"),
        **{
            f"foretold_{workers}": median(
                a / b for a, b in zip(fill.foretold[workers], taken[name], strict=True)
            )
            for name, workers in (("one", 1), ("two", 2))
        },
        "seconds": taken,
        "foretold_seconds": fill.foretold,
        "clips": fill.plan.work.clips,
        "units": fill.plan.work.units,
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--videos", default=16, show_default=True)
@click.option("--views", default=4, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=15.0, show_default=True, help="Of a measurement for the plan.")
def main(as_json: bool, videos: int, views: int, rounds: int, seconds: float) -> None:
    """Fill a cache by one worker and by two, in turns."""
    before, threads = load(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory(prefix="workers-") as folder:
            figures = compare(
                Path(folder),
                backbone="resnet50",
                size=224,
                videos=videos,
                views=views,
                rounds=rounds,
                seconds=seconds,
            )
    finally:
        torch.set_num_threads(threads)
    figures |= {"cores": os.cpu_count(), "load": [before, load()]}
    text = "\n".join(f"{name:<18}{value}" for name, value in figures.items())
    emit(figures, as_json=as_json, text=text)


if __name__ == "__main__":
    main()
