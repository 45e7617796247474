"""How much of the gap between a small-frame student and its teacher the cache closes.

    python -m tests.benchmarks.distillation_gain --json
    python -m tests.benchmarks.distillation_gain --views 1,2,4,8,16 --live --json

Runs the demo's pipeline once per seed (data, views and initialisation all follow the seed) and
reports mean and standard deviation over seeds. `plain` and `plain_long` are the same student from
labels alone, at equal and at three times the epochs; the gap is measured from the better of them.
Data and recipe were chosen on seeds 100 and 101; seeds 0 to 2 are for reporting.

--views distils the same student from that many stored views of each video, --live beside a teacher
that runs in every step, where each epoch sees a view that no other has seen: what a cache of
endless views would give. Nothing else differs between these students.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import yaml

from reskd.common.console import emit, in_lines
from reskd.student_train.demo.pipeline import MODELS, run_command, run_seed


def sweep_seed(folder: Path, views: Sequence[int], *, live: bool) -> dict[str, float]:
    """Distil the student of a finished `run_seed` from other numbers of views.

    Args:
        folder: Of that seed. Its cache is extended where it holds too few views.
        views: Numbers of stored views to train on, rising.
        live: Also beside a live teacher, a fresh view in every epoch.

    Returns:
        Top-1 by the name of the student.
    """
    experiment, cache = folder / "experiment.yaml", folder / "cache"
    tree = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    runs = {}
    for count in views:
        runs[_name(count)] = run = folder / f"distilled-{count}-views"
        if count > tree["views"]["count"]:
            run_command("cache", "extend", cache, "--views", str(count))
        _train(experiment, run, count, "--cache", cache)
    if live:
        runs["live"] = run = folder / "live"
        epochs = tree["student"]["training"]["epochs"]
        decoded_once = f"student.training.memory_gb={tree['teacher']['training']['memory_gb']}"
        _train(experiment, run, epochs, "--teacher", "live", "-o", decoded_once)
    return {name: run_command("evaluate", run)["top1"] for name, run in runs.items()}


def _train(experiment: Path, run: Path, views: int, *options: str | Path) -> None:
    count = f"views.count={views}"
    run_command("train-student", experiment, *options, "--run", run, "--no-validate", "-o", count)


def _name(views: int) -> str:
    return f"{views} view{'s' if views > 1 else ''}"


def summarise(
    results: Sequence[dict[str, Any]], sweeps: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Means, spreads, the share of the gap closed, and what a live teacher would add.

    Args:
        results: One demo result per seed.
        sweeps: One `sweep_seed` per seed; none if there was no sweep.
    """
    models = {model: _spread([result[model]["top1"] for result in results]) for model in MODELS}
    rival = max(models["plain"]["mean"], models["plain_long"]["mean"])
    gap = models["teacher"]["mean"] - rival
    summary = {
        **models,
        "gap_closed": (models["distilled"]["mean"] - rival) / gap,
        "seeds": [result["seed"] for result in results],
        "chance": 1 / results[0]["classes"],
        "seconds": [result["seconds"] for result in results],
    }
    if sweeps:
        summary["sweep"] = {name: _spread([one[name] for one in sweeps]) for name in sweeps[0]}
    if sweeps and "live" in sweeps[0]:
        # Seed by seed: both students have the same data, teacher and first weights.
        summary["cached_minus_live"] = {
            name: _spread([one[name] - one["live"] for one in sweeps])
            for name in sweeps[0]
            if name != "live"
        }
    return summary


def _spread(values: Sequence[float]) -> dict[str, Any]:
    std = stdev(values) if len(values) > 1 else 0.0
    return {"mean": mean(values), "std": std, "values": list(values)}


def summary_text(summary: Mapping[str, Any]) -> str:
    """The summary for a person."""
    rows = {model: summary[model] for model in MODELS}
    for name, spread in summary.get("sweep", {}).items():
        rows[f"distilled, {name}"] = spread
    for name, spread in summary.get("cached_minus_live", {}).items():
        rows[f"{name} minus live"] = spread
    lines = [
        "{:<20}{mean:6.3f} ± {std:.3f}  {values}".format(name, **spread)
        for name, spread in rows.items()
    ]
    lines.append(f"gap closed {summary['gap_closed']:.2f}, chance {summary['chance']:.3f}")
    return in_lines(*lines)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="reskd-demo",
    show_default=True,
    help="Folder of the runs; finished ones are used again.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Numbers, comma separated.")
@click.option("--views", default="", help="Numbers of stored views to distil from as well.")
@click.option("--live", is_flag=True, help="Distil beside a live teacher as well.")
@click.option("--json", "as_json", is_flag=True)
def main(out: Path, seeds: str, views: str, live: bool, as_json: bool) -> None:
    """Run the demo for several seeds and compare teacher, distilled and plain students."""
    counts = sorted(_numbers(views))
    results, sweeps = [], []
    for seed in _numbers(seeds):
        folder = (out / f"seed-{seed}").absolute()
        results.append(run_seed(folder, seed))
        if counts or live:
            sweeps.append(sweep_seed(folder, counts, live=live))
    summary = summarise(results, sweeps)
    emit(summary, as_json=as_json, text=summary_text(summary))


if __name__ == "__main__":
    main()
