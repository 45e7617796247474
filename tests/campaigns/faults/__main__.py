"""Every k-th file operation of some commands fails or kills; then the same command again.

    python -m tests.campaigns.faults --minutes 10 --json

Kinds: EIO at any operation, once or for ever on that file; ENOSPC at any that changes something,
once or for ever; a write that takes half of its bytes; SIGKILL. What is wrong: exit code 1 or 2, or
a failure called bad data or a damaged cache (3, 4); a command that hangs; and, after the same
command once more without faults, another exit code than 0 or other bytes than an undisturbed run
makes. Needs Linux and a C compiler.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from reskd.common.console import emit, say
from tests.campaigns.faults import shim
from tests.campaigns.faults.subjects import SUBJECTS, Subject, made_by, start_over

FAULTS: Final[Sequence[tuple[shim.Kind, bool]]] = (
    ("EIO", False),
    ("EIO", True),
    ("ENOSPC", False),
    ("ENOSPC", True),
    ("short", False),
    ("kill", False),
)
SECONDS: Final = 120
RIGHT_CODES: Final = frozenset({0, 5})


def in_child(
    subject: Subject, work: Path, k: int, fault: tuple[shim.Kind, bool]
) -> tuple[int, str]:
    """Run the command in a process of its own with a fault; k = 0: none.

    Returns:
        Exit code, minus the signal, or 999 where it hung; and the end of what it said.
    """
    said = work.with_name("said.txt")
    child = os.fork()
    if child == 0:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        signal.alarm(SECONDS)
        shim.arm(work, k, fault[0] if k else "count", stays=fault[1])
        code = subject.run(work)
        shim.arm(Path("/nowhere"), 0, "count")
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(errors="replace").strip()
    return 999 if code == -signal.SIGALRM else code, text[-600:]


def num_operations(subject: Subject, work: Path, kind: shim.Kind) -> int:
    """Operations that a fault of this kind may hit, of an undisturbed run."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        shim.arm(work, 0, kind)
        code = subject.run(work)
        os.write(theirs, json.dumps([shim.count(), code]).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        count, code = json.load(answer)
    os.waitpid(child, 0)
    assert code == 0, f"{subject.command} ended with {code} undisturbed"
    return int(count)


def try_one(
    subject: Subject,
    pristine: Path,
    work: Path,
    whole: dict[str, bytes],
    k: int,
    fault: tuple[shim.Kind, bool],
) -> dict[str, Any]:
    """Disturb the command once, and run it again."""
    start_over(pristine, work)
    code, said = in_child(subject, work, k, fault)
    wrong = []
    allowed = {-signal.SIGKILL, 0} if fault[0] == "kill" else RIGHT_CODES | subject.also_right
    if code not in allowed:
        wrong.append(f"ended with {code}")
    again, told = (code, said) if code == 0 else in_child(subject, work, 0, fault)
    if again != 0:
        wrong.append(f"again: {again}: {told}")
    elif made_by(subject, work) != whole:
        wrong.append("other bytes")
    return {"code": code, "wrong": wrong, "said": said if wrong else ""}


def run_campaign(
    folder: Path,
    names: Sequence[str],
    *,
    seed: int,
    seconds: float,
    most: int | None = None,
    faults: Sequence[tuple[shim.Kind, bool]] = FAULTS,
) -> dict[str, Any]:
    """See the top of the file.

    Args:
        folder: To work in.
        names: Of SUBJECTS.
        seed: Of the order in which the operations come, should time end before all are tried.
        seconds: For all of it.
        most: Trials of a subject; None: all.
        faults: Kinds, and whether they stay.
    """
    begin = time.perf_counter()
    result: dict[str, Any] = {"seed": seed, "subjects": {}}
    for place, name in enumerate(names):
        until = begin + seconds * (place + 1) / len(names)
        result["subjects"][name] = _try_subject(folder / name, name, seed, until, most, faults)
    tried = [subject["tried"] for subject in result["subjects"].values()]
    wrong = [subject["wrong"] for subject in result["subjects"].values()]
    return {
        **result,
        "tried": sum(tried),
        "wrong": sum(map(len, wrong)),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def _try_subject(
    folder: Path,
    name: str,
    seed: int,
    until: float,
    most: int | None,
    faults: Sequence[tuple[shim.Kind, bool]],
) -> dict[str, Any]:
    subject, pristine, work = SUBJECTS[name], folder / "pristine", folder / "work"
    work.parent.mkdir(parents=True)
    # Made at the place where the command runs: records may hold its path.
    _prepared(subject, work)
    work.rename(pristine)
    operations: dict[shim.Kind, int] = {}
    for kind, _ in faults:
        if kind not in operations:
            start_over(pristine, work)
            operations[kind] = num_operations(subject, work, kind)
    whole = made_by(subject, work)
    trials = [(k, fault) for fault in faults for k in range(1, operations[fault[0]] + 1)]
    order = np.random.default_rng([seed, len(name)]).permutation(len(trials))[:most]
    codes: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    tried = 0
    for number in order:
        if time.perf_counter() > until:
            break
        k, fault = trials[number]
        found = try_one(subject, pristine, work, whole, k, fault)
        tried += 1
        codes[str(found["code"])] += 1
        if found["wrong"]:
            wrong.append({"k": k, "fault": fault[0], "stays": fault[1], **found})
            say(f"{name}: {json.dumps(wrong[-1])}")
    return {
        "operations": operations,
        "trials": len(trials),
        "tried": tried,
        "codes": dict(codes),
        "wrong": wrong,
    }


def _prepared(subject: Subject, work: Path) -> None:
    """In a process of its own, so that this one starts no threads of torch before it forks."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        subject.prepare(work)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"{subject.command} could not be prepared"


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="Shared by the commands.")
@click.option("--seed", default=0, show_default=True)
@click.option("--most", type=int, help="Trials of each command.  [default: all]")
@click.option("--only", multiple=True, type=click.Choice(list(SUBJECTS)), help="Commands to try.")
@click.option("--json", "as_json", is_flag=True)
def main(minutes: float, seed: int, most: int | None, only: tuple[str, ...], as_json: bool) -> None:
    """Let file operations of some commands fail, and see that nothing is lost."""
    if shim.PRELOAD not in os.environ:
        with tempfile.TemporaryDirectory() as name:
            environment = {**os.environ, shim.PRELOAD: str(shim.build(Path(name)))}
            again = [sys.executable, "-m", "tests.campaigns.faults", *sys.argv[1:]]
            sys.exit(subprocess.run(again, env=environment, check=False).returncode)
    import torch

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    with tempfile.TemporaryDirectory() as name:
        names = only or tuple(SUBJECTS)
        result = run_campaign(Path(name), names, seed=seed, seconds=60 * minutes, most=most)
    emit(result, as_json=as_json, text=json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
