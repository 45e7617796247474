"""Start every command that makes a folder or a file twice at once, and see how the two end.

    python -m tests.campaigns.pairs --rounds 20 --json

Both are processes of their own; the second begins after a random part of the time that one alone
takes, at once in the first round. None may end with 1, one must do the work, and what the other may
end with is `Pair.late`. The command then runs once more, alone, and nothing half-written is left.
"""

import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import timm
import torch

from reskd.common.cli.main import main as reskd
from reskd.common.console import emit, in_lines, say
from reskd.common.dataset.frames import extract
from reskd.student_train.deploy import export
from reskd.student_train.evaluate import measure
from reskd.student_train.train import runs
from reskd.teacher_cache.fill import engine
from tests.tiny_experiment import make_tiny_experiment

LOADED: Final = (extract, export, measure, runs, engine)
"""Here, so that a child starts at once."""
OK, REFUSED, HELD = 0, 3, 5


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A command that is started twice at once; `HOME` and `OUT` are filled in."""

    id: str
    words: str
    late: tuple[int, ...]
    """What the one may end with that comes too late; the other one ends with 0."""
    again: int = OK
    """What the same command ends with afterwards, alone."""
    endless: bool = False
    """Takes minutes: the first one is killed when the other has ended."""


TRAIN = "--run OUT --no-validate -o student.training.epochs=2 -o teacher.training.epochs=2"
PAIRS = (
    Pair(id="cache", words="cache-teacher HOME/experiment.yaml --cache OUT", late=(OK, HELD)),
    Pair(
        id="run",
        words=f"train-student HOME/experiment.yaml --no-distill {TRAIN}",
        late=(OK, HELD),  # all is done where the first one has ended
    ),
    Pair(
        id="frames, packed",
        words="dataset extract-frames HOME/index.jsonl --out OUT.h5",
        late=(OK, HELD),
    ),
    Pair(
        id="frames, folders",
        words="dataset extract-frames HOME/index.jsonl --out OUT --layout folders",
        late=(OK, HELD),
    ),
    Pair(
        id="clip store",
        words="evaluate HOME/teacher --split val --clips-store OUT --report OUT.report",
        late=(OK,),  # clips that another process is about to keep are cut from the videos
    ),
    Pair(
        id="index",
        words="dataset import folder HOME/videos --out OUT.jsonl",
        late=(OK, HELD),
    ),
    Pair(
        id="imported checkpoint",
        words="import-checkpoint HOME/weights.pth OUT --model tsn_test_resnet",
        late=(REFUSED,),  # the folder is there
        again=REFUSED,
    ),
    Pair(id="export", words="export HOME/teacher OUT.pt2 --no-check", late=(OK,)),
    Pair(id="demo", words="demo --out OUT", late=(HELD,), endless=True),
)


def start(words: Sequence[str], log: Path, delay: float = 0.0) -> int:
    """Run a command in a child; returns its process number."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT, 0o600), 2)
        time.sleep(delay)
        os._exit(reskd(list(words)))
    return child


def end_of(child: int) -> int:
    """Exit code of a child; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def try_pair(pair: Pair, home: Path, out: Path, delay: float) -> dict[str, Any]:
    """Start the two, then the command alone.

    Returns:
        `codes` of both, `again`, `seconds` of that, and `problems` in words.
    """
    words = pair.words.replace("HOME", str(home)).replace("OUT", str(out)).split()
    logs = [out.with_name(f"{out.name}.{number}.log") for number in range(3)]
    children = [start(words, logs[0]), start(words, logs[1], delay)]
    if pair.endless:
        first, status = os.waitpid(-1, 0)
        os.kill(next(child for child in children if child != first), signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(status)]
        os.wait()
    else:
        codes = [end_of(child) for child in children]
    began = time.monotonic()
    again = pair.again if pair.endless else end_of(start(words, logs[2]))
    seconds = time.monotonic() - began
    problems = [] if again == pair.again else [f"alone it ended with {again}"]
    late = codes if pair.endless else sorted(codes)[1:]
    if not set(late) <= set(pair.late) or not (pair.endless or OK in codes):
        problems.append(f"the two ended with {codes}")
    said = "".join(log.read_text(errors="replace") for log in logs if log.exists())
    problems += [word for word in ("Traceback", "defect of the program") if word in said]
    if not pair.endless:
        problems += [f"left {path}" for path in out.parent.rglob("*.partial")]
    if problems:
        say(in_lines(*said.split("\n")))
    return {"codes": codes, "again": again, "seconds": seconds, "problems": problems}


def prepare(home: Path) -> None:
    """Videos, index, experiment, teacher, and weights of another program."""
    make_tiny_experiment(home)
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save(model.state_dict(), home / "weights.pth")


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--only", multiple=True, help="Names of pairs.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, only: tuple[str, ...], seed: int, as_json: bool) -> None:
    """Try every pair so many times; exit code 1 if any ended as it must not."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    tried: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="reskd-pairs-") as scratch:
        home = Path(scratch) / "home"
        prepare(home)
        for pair in PAIRS:
            if only and pair.id not in only:
                continue
            ends: list[dict[str, Any]] = []
            alone = 0.0
            for number in range(rounds):
                out = Path(scratch) / pair.id.replace(", ", "-").replace(" ", "-") / f"{number}"
                out.parent.mkdir(exist_ok=True)
                alone = max(alone, ends[-1]["seconds"] if ends else 0.0)
                ends.append(try_pair(pair, home, out, float(rng.uniform(0, alone))))
                say(f"{pair.id}: {ends[-1]}")
            tried[pair.id] = {
                "tried": rounds,
                "codes": [end["codes"] for end in ends],
                "problems": [problem for end in ends for problem in end["problems"]],
            }
    bad = {name: one["problems"] for name, one in tried.items() if one["problems"]}
    emit(
        {"pairs": tried, "bad": bad},
        as_json=as_json,
        text=in_lines(*(f"{name}: {one}" for name, one in tried.items())),
    )
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
