"""How much of the gap between a small-frame student and its teacher the cache closes.

    python -m tests.benchmarks.distillation_gain --json

Runs the demo's pipeline once per seed (data, views and initialisation all follow the seed) and
reports mean and standard deviation over seeds. `plain` and `plain_long` are the same student from
labels alone, at equal and at three times the epochs; the gap is measured from the better of them.
Data and recipe were chosen on seeds 100 and 101; seeds 0 to 2 are for reporting.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click

from common.console import emit
from student_train.demo import MODELS, run_seed


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means, spreads and the share of the gap closed, from one demo result per seed."""
    top1 = {model: [result[model]["top1"] for result in results] for model in MODELS}
    means = {model: mean(values) for model, values in top1.items()}
    rival = max(means["plain"], means["plain_long"])
    return {
        **{
            model: {
                "mean": means[model],
                "std": stdev(values) if len(values) > 1 else 0.0,
                "values": values,
            }
            for model, values in top1.items()
        },
        "gap_closed": (means["distilled"] - rival) / (means["teacher"] - rival),
        "seeds": [result["seed"] for result in results],
        "chance": 1 / results[0]["classes"],
        "seconds": [result["seconds"] for result in results],
    }


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="reskd-demo",
    show_default=True,
    help="Folder of the runs; finished ones are used again.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Numbers, comma separated.")
@click.option("--json", "as_json", is_flag=True)
def main(out: Path, seeds: str, as_json: bool) -> None:
    """Run the demo for several seeds and compare teacher, distilled and plain students."""
    numbers = [int(seed) for seed in seeds.split(",")]
    result = summarise([run_seed((out / f"seed-{n}").absolute(), n) for n in numbers])
    lines = [
        "{:<11}{mean:.3f} ± {std:.3f}  {values}".format(model, **result[model]) for model in MODELS
    ]
    lines.append(f"gap closed {result['gap_closed']:.2f}, chance {result['chance']:.3f}")
    emit(result, as_json=as_json, text="\n".join(lines))


if __name__ == "__main__":
    main()
