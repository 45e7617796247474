"""What runs have cost: one JSON line each, beside the cache, not in it.

The cache itself holds no time, host or path, so that equal work leaves equal bytes. Losing this
file loses no rows: `cache info` can then not tell the hours, and commands that need the experiment
ask for it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment
from reskd.common.experiment.load import experiment_tree, parse_experiment
from reskd.common.parsing.json_text import parse_json
from reskd.common.storage.kinds import read_file
from reskd.common.storage.system_errors import writing

SUFFIX = ".runs.jsonl"


def log_path(folder: Path) -> Path:
    """Where the log of a cache lies."""
    return folder.with_name(folder.name + SUFFIX)


def append_run(folder: Path, experiment: Experiment, facts: Mapping[str, Any]) -> None:
    """Add one run: its experiment and whatever it measured."""
    line = json.dumps({**facts, "experiment": experiment_tree(experiment)}, default=str)
    with (
        writing(log_path(folder)),
        log_path(folder).open("a", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.write(line + "\n")


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Runs in order; lines that a crash cut off are passed over."""
    try:
        text = read_file(log_path(folder)).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return []
    runs = []
    for line in text.splitlines():
        try:
            runs.append(parse_json(line))
        except ValueError:
            continue
    return [run for run in runs if isinstance(run, dict)]


def recorded_experiment(folder: Path) -> Experiment:
    """The experiment of the last run that wrote a cache.

    Raises:
        ExperimentError: If there is no record of it here.
    """
    for run in reversed(read_runs(folder)):
        if isinstance(run.get("experiment"), dict):
            return parse_experiment(run["experiment"], source=str(log_path(folder)))
    raise ExperimentError(
        f"There is no record beside {folder} of the experiment it was written for "
        f"({log_path(folder).name} is missing); name it with --experiment."
    )
