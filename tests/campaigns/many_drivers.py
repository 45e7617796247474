"""Several drivers started at one moment on an empty folder: all end well, with one whole cache.

    python -m tests.campaigns.many_drivers --rounds 20 --json

Each fills its slice of a small experiment. Every cache must equal that of one process, byte for
byte, and nothing half-made may lie beside it. In every other round the folder is there already,
empty, which counts as none.
"""

import io
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import click
import torch

from reskd.common.cli.main import main as reskd
from reskd.common.console import emit, say
from tests.processes import started
from tests.teacher_cache.handling import tree_of
from tests.tiny_experiment import make_tiny_experiment

SECONDS_OF_A_ROUND = 300


def command_of(experiment: Path, folder: Path, part: str) -> list[str]:
    """The command that fills a slice, in a process of its own."""
    words = [sys.executable, "-m", "reskd.common.cli.main", "cache-teacher", str(experiment)]
    return [*words, "--cache", str(folder), "--slice", part]


def environment() -> dict[str, str]:
    """As many threads as here, for records name their number."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def at_one_moment(experiment: Path, folder: Path, drivers: int) -> list[tuple[int, str]]:
    """Start all drivers; gives the exit code of each and what it said."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                started(
                    command_of(experiment, folder, f"{number}/{drivers}"),
                    env=environment(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            )
            for number in range(1, drivers + 1)
        ]
        told = [process.communicate(timeout=SECONDS_OF_A_ROUND)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def run_campaign(folder: Path, *, rounds: int, drivers: int) -> dict[str, Any]:
    """See the top of the file."""
    torch.set_num_threads(1)
    experiment = make_tiny_experiment(folder / "tiny")
    alone = folder / "alone"
    with redirect_stdout(io.StringIO()):
        code = reskd(["cache-teacher", str(experiment), "--cache", str(alone), "--threads", "1"])
    if code:
        raise RuntimeError(f"one driver alone ended with {code}")
    whole, good = tree_of(alone), 0
    for number in range(rounds):
        cache = folder / "caches" / f"round-{number}"
        if number % 2:
            cache.mkdir(parents=True)
        ends = at_one_moment(experiment, cache, drivers)
        codes = [code for code, _ in ends]
        equal = cache.is_dir() and tree_of(cache) == whole
        left = [path.name for path in cache.parent.glob("*.partial")]
        say(f"round {number}: ended with {codes}, equal: {equal}, left over: {left}")
        if any(codes) or not equal or left:
            say("\n".join(text for code, text in ends if code))
        else:
            good += 1
    return {"rounds": rounds, "drivers": drivers, "good": good}


@click.command()
@click.option("--rounds", default=20, show_default=True)
@click.option("--drivers", default=4, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, drivers: int, as_json: bool) -> None:
    """Start several drivers at one moment, again and again; ends with 1 if a round goes wrong."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_campaign(Path(folder), rounds=rounds, drivers=drivers)
    text = f"{result['good']} of {rounds} rounds: all {drivers} ended with 0 and one whole cache"
    emit(result, as_json=as_json, text=text)
    raise SystemExit(result["good"] != rounds)


if __name__ == "__main__":
    main()
