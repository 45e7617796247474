"""How well `reskd cache plan` predicts the size of a cache and the time that it takes.

    python -m tests.benchmarks.plan_time --json

On the demo's videos, with a teacher of random weights: neither size nor time depends on what it has
learnt. Forecast and run take turns, each run into a new folder, so that both see the same load of
the machine; medians are reported. The videos are in the page cache for both.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from reskd.common.cli.main import main as reskd_main
from reskd.common.console import emit, in_lines, say
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.student_train.demo.pipeline import write_experiment
from reskd.student_train.demo.videos import write_demo_videos
from reskd.teacher_cache.estimate.forecast import forecast_cache
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.plan import plan_cache
from tests.tiny_experiment import save_random_teacher

SEED = 100
THREADS = 2


def make_experiment(folder: Path) -> Path:
    """Write the demo's videos, index, experiment and a teacher of random weights."""
    write_demo_videos(folder / "videos", seed=SEED)
    index = folder / "index.jsonl"
    imported = ["dataset", "import", "folder", str(folder / "videos"), "--out", str(index)]
    if reskd_main(imported):
        raise RuntimeError(f"the demo's videos in {folder} could not be imported")
    path = folder / "experiment.yaml"
    write_experiment(path, SEED)
    save_random_teacher(load_experiment(str(path)), seed=SEED)
    return path


def predict_then_run(path: Path, cache: Path) -> dict[str, Any]:
    """One forecast and one run of stage one, which is removed again."""
    experiment = load_experiment(str(path), ["teacher.least_top1=0"])  # random weights pass it
    index = read_index(experiment.data.index)
    plan = plan_cache(experiment, index, memory_bytes=2 * 10**9)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forecast = forecast_cache(
        experiment, index, plan, folder=cache, device=device, threads=THREADS
    ).as_dict()
    start = time.perf_counter()
    options = RunOptions(max_bad=0.0, threads=THREADS, device=device, force=False)
    run_cache_teacher(experiment, plan, cache, options)
    seconds = time.perf_counter() - start
    files = [file for file in cache.rglob("*") if file.is_file()]
    objects = [file for file in files if file.suffix != ".json"]
    written_bytes = sum(file.stat().st_size for file in objects)
    shutil.rmtree(cache)
    return {
        "predicted_bytes": forecast["bytes"],
        "written_bytes": written_bytes,
        "predicted_files": forecast["files"],
        "written_files": len(files),
        "predicted_seconds": forecast["hours"]["wall"] * 3600,
        "measured_seconds": seconds,
        "probe_seconds": forecast["probe"]["seconds"],
        "device": forecast["device_name"],
        "load": os.getloadavg()[0],
    }


def summarise(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the pairs of forecast and run; ratios are predicted over true."""
    ratios = [pair["predicted_seconds"] / pair["measured_seconds"] for pair in pairs]
    first = pairs[0]
    return {
        "predicted_bytes": first["predicted_bytes"],
        "written_bytes": first["written_bytes"],
        "bytes_ratio": first["predicted_bytes"] / first["written_bytes"],
        "predicted_files": first["predicted_files"],
        "written_files": first["written_files"],
        "predicted_seconds": median(pair["predicted_seconds"] for pair in pairs),
        "measured_seconds": median(pair["measured_seconds"] for pair in pairs),
        "time_ratio": median(ratios),
        "time_ratios": ratios,
        "probe_seconds": median(pair["probe_seconds"] for pair in pairs),
        "load": [pair["load"] for pair in pairs],
        "device": first["device"],
    }


@click.command()
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(repeats: int, as_json: bool) -> None:
    """Forecast and run stage one on the demo's data, in turns."""
    with tempfile.TemporaryDirectory(prefix="plan-time-") as name:
        folder = Path(name)
        say(f"writing the demo's videos to {folder}")
        path = make_experiment(folder)
        result = summarise([predict_then_run(path, folder / "cache") for _ in range(repeats)])
    text = in_lines(
        "bytes {predicted_bytes} foretold, {written_bytes} written: {bytes_ratio:.4f}".format_map(
            result
        ),
        "seconds {predicted_seconds:.1f} foretold, {measured_seconds:.1f} taken: "
        "{time_ratio:.2f}".format_map(result),
    )
    emit(result, as_json=as_json, text=text)


if __name__ == "__main__":
    main()
