"""What the demo's student learns by each kind of loss from one cache, against feature MSE.

    python -m tests.benchmarks.loss_kinds --json

One teacher and one cache per seed (the demo's; data, views and initialisation follow the seed), and
a student for each kind, all else equal: its recipe was chosen for feature MSE. Weights are those of
the papers, or 1; none was tuned here. Finished runs are used again, so it may be done in pieces
(--seeds, --kinds).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import click

from reskd.common.console import emit, in_lines
from reskd.student_train.demo.pipeline import run_command, write_experiment
from reskd.student_train.demo.videos import DEMO_CLIPS_PER_CLASS, write_demo_videos

KINDS: Final = {
    "feature_mse": "{cross_entropy: 1, feature_mse: 30}",
    "feature_mse_normalised": "{cross_entropy: 1, feature_mse: 0, feature_mse_normalised: 1}",
    "logit_kd": "{cross_entropy: 1, feature_mse: 0, logit_kd: 1, temperature: 4}",
    "logit_kd, standardised": (
        "{cross_entropy: 1, feature_mse: 0, logit_kd: 9, temperature: 2, standardise_logits: true}"
    ),
    "dkd": "{cross_entropy: 1, feature_mse: 0, dkd_target: 1, dkd_others: 8, temperature: 4}",
    "dist": "{cross_entropy: 1, feature_mse: 0, dist_inter: 1, dist_intra: 1, temperature: 1}",
    "labels alone": "{cross_entropy: 1, feature_mse: 0}",
}
"""student.losses by kind."""
REFERENCE: Final = "feature_mse"


def measure_seed(folder: Path, seed: int, kinds: Sequence[str]) -> dict[str, float]:
    """Top-1 on the demo's test videos by kind of loss.

    Args:
        folder: Of this seed; what is there is used.
        seed: Of videos, views and networks.
        kinds: Of KINDS.
    """
    experiment, cache = folder / "experiment.yaml", folder / "cache"
    if not (folder / "index.jsonl").exists():
        write_demo_videos(folder / "videos", seed=seed, clips_per_class=DEMO_CLIPS_PER_CLASS)
        write_experiment(experiment, seed)
        videos = folder / "videos"
        run_command("dataset", "import", "folder", videos, "--out", folder / "index.jsonl")
    run_command("train-teacher", experiment, "--no-validate")
    run_command("cache-teacher", experiment, "--cache", cache)
    found = {}
    for kind in kinds:
        run = folder / kind.replace(", ", "-").replace(" ", "-")
        losses = f"student.losses={KINDS[kind]}"
        student = ("train-student", experiment, "--cache", cache, "--no-validate", "--run", run)
        run_command(*student, "-o", losses)
        found[kind] = run_command("evaluate", run)["top1"]
    return found


def summarise(seeds: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and the difference to feature MSE seed by seed."""
    found = list(seeds.values())
    summary: dict[str, Any] = {"seeds": list(seeds), "kinds": {}}
    for kind in found[0]:
        row: dict[str, Any] = {"values": [one[kind] for one in found]}
        row |= _spread(row["values"])
        if REFERENCE in found[0]:
            minus = [one[kind] - one[REFERENCE] for one in found]
            row["minus_feature_mse"] = _spread(minus)
        summary["kinds"][kind] = row
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0}


def summary_text(summary: Mapping[str, Any]) -> str:
    """The table for a person."""
    lines = []
    for kind, row in summary["kinds"].items():
        values = "  ".join(f"{value:.3f}" for value in row["values"])
        minus = row.get("minus_feature_mse")
        beside = "" if minus is None else f"   {minus['mean']:+.3f} ± {minus['std']:.3f}"
        lines.append(f"{kind:<24}{row['mean']:.3f} ± {row['std']:.3f}   {values}{beside}")
    return in_lines(*lines)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="reskd-losses",
    show_default=True,
    help="Folder of the runs; finished ones are used again.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Numbers, comma separated.")
@click.option("--kinds", default=";".join(KINDS), help="Kinds of losses, separated by ;.")
@click.option("--json", "as_json", is_flag=True)
def main(out: Path, seeds: str, kinds: str, as_json: bool) -> None:
    """Train a student by each kind of loss and print their accuracies."""
    chosen = [kind for kind in kinds.split(";") if kind]
    found = {
        int(seed): measure_seed((out / f"seed-{seed}").absolute(), int(seed), chosen)
        for seed in seeds.split(",")
    }
    summary = summarise(found)
    emit(summary, as_json=as_json, text=summary_text(summary))


if __name__ == "__main__":
    main()
