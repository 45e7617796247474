"""Kill stage one at random moments, start it again, and compare every byte.

    python -m tests.campaigns.kill_cache_teacher --kills 30 --json

A child process runs `reskd cache-teacher` on a small experiment and is killed with SIGKILL after a
random part of the time that an undisturbed run takes; the same command then finishes the cache.
Every third trial is killed again while it goes on. What a kill may cost: units that had begun to
reach the disk and have no commit record (`largest_loss`, at most one, since one thread writes one
unit at a time) and the unit being computed. Every finished cache must equal the undisturbed one.
"""

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from reskd.common.cli.main import main as reskd
from reskd.common.console import emit, in_lines, say
from reskd.teacher_cache.fill.engine import (
    run_cache_teacher,
)  # loaded here, so that a child starts at once
from reskd.teacher_cache.format.commits import read_commits
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.handling import tree_of
from tests.tiny_experiment import make_tiny_experiment

assert run_cache_teacher is not None


def unfinished_units(folder: Path) -> set[int]:
    """Units of which something reached the disk and no record did."""
    begun = {
        int(path.relative_to(folder).parts[3].split(".")[0])
        for path in folder.glob("*/c/0/**/*")
        if path.is_file()
    }
    return begun - set(read_commits(folder, 1, range(1 + max(begun, default=0))))


def start(experiment: Path, cache: Path) -> int:
    """Run the command in a child; returns its process number."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os._exit(reskd(["cache-teacher", str(experiment), "--cache", str(cache), "--threads", "1"]))
    return child


def finish(experiment: Path, cache: Path) -> None:
    """Run the command to its end."""
    code = os.waitstatus_to_exitcode(os.waitpid(start(experiment, cache), 0)[1])
    assert code == 0, f"cache-teacher ended with {code}"


def kill_after(experiment: Path, cache: Path, seconds: float) -> bool:
    """Start the command and kill it; False if it was done before."""
    child = start(experiment, cache)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def run_campaign(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """See the top of the file."""
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    experiment = make_tiny_experiment(folder / "tiny", videos_per_class=10, num_frames=4)
    begin = time.perf_counter()
    finish(experiment, folder / "whole")
    duration = time.perf_counter() - begin
    whole = tree_of(folder / "whole")
    rng = np.random.default_rng(seed)
    trials = [
        _trial(experiment, folder / f"cache-{n}", whole, n, duration, rng) for n in range(kills)
    ]
    return {
        "kills": sum(trial["kills"] for trial in trials),
        "seed": seed,
        "equal": all(trial["equal"] for trial in trials),
        "clean": all(trial["clean"] for trial in trials),
        "largest_loss": max(trial["lost"] for trial in trials),
        "committed_at_kill": [trial["committed"] for trial in trials],
    }


def _trial(
    experiment: Path,
    cache: Path,
    whole: dict[str, bytes],
    number: int,
    duration: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    kills, lost, committed = 0, 0, 0
    for _ in range(2 if number % 3 == 0 else 1):
        kills += kill_after(experiment, cache, float(rng.uniform(0, duration)))
        if cache.exists():
            lost = max(lost, len(unfinished_units(cache)))
            committed = len(list(cache.glob("commits/*.json")))
    finish(experiment, cache)
    result = {
        "kills": kills,
        "lost": lost,
        "committed": committed,
        "equal": tree_of(cache) == whole,
        "clean": not verify_cache(cache, "bytes").findings,
    }
    say(f"trial {number}: {json.dumps(result)}")
    return result


def campaign_text(result: dict[str, Any]) -> str:
    """The result for a person."""
    return in_lines(
        f"{result['kills']} kills, units committed when killed: {result['committed_at_kill']}",
        f"finished caches equal byte for byte: {result['equal']}, clean: {result['clean']}",
        f"most units begun on disk and not committed: {result['largest_loss']}",
    )


@click.command()
@click.option("--kills", default=30, show_default=True, help="Trials.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--json", "as_json", is_flag=True)
def main(kills: int, seed: int, as_json: bool) -> None:
    """Kill stage one at random moments and compare every byte afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_campaign(Path(folder), kills, seed)
    emit(result, as_json=as_json, text=campaign_text(result))


if __name__ == "__main__":
    main()
