"""A run of two processes of which one is killed: the other one ends by itself and says so."""

import os
import signal
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from reskd.common.cli.main import main
from reskd.student_train.distributed import lost_another
from reskd.student_train.run.folder import STATES_FOLDER, RunFolder
from reskd.student_train.train.stepper import Stepper
from tests.student_train.two_processes import as_torchrun_does, free_port, in_two_processes
from tests.tiny_experiment import TinyCache

STEPS = 4
"""Of each of two epochs."""


@dataclass(frozen=True, slots=True)
class Case:
    """Who is killed and when, and what is left."""

    id: str
    victim: int
    """Rank of the one that is killed."""
    owner: type
    method: str
    """What it calls when it is."""
    call: int
    """Which call of it that is, from 1."""
    state: int | None
    """Steps of the state that is left."""
    stopped: bool = False
    """Whether the other one is asked to stop in its first step."""


CASES = [
    Case("second-before-an-exchange", 1, RunFolder, "load", 1, None),
    Case("second-before-its-backward-pass", 1, Stepper, "forward_backward", STEPS + 2, STEPS),
    Case("first-before-its-backward-pass", 0, Stepper, "forward_backward", STEPS + 2, STEPS),
    Case("first-while-it-saves-for-a-stop", 0, RunFolder, "save", 1, None, stopped=True),
]


def _signalled(original: Callable[..., Any], number: int, call: int) -> Callable[..., Any]:
    """The same method of a class, whose given call sends this process a signal before."""
    calls = 0

    def method(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(*given)

    return method


def _run(case: Case, given: list[str], port: int, rank: int) -> tuple[int, str]:
    """Exit code and stderr of the command."""
    as_torchrun_does(rank, port)
    owner, method, number, call = case.owner, case.method, signal.SIGKILL, case.call
    if rank != case.victim:
        owner, method, number, call = Stepper, "step", signal.SIGTERM, int(case.stopped)
    original = getattr(owner, method)
    said = StringIO()
    with redirect_stderr(said), patch.object(owner, method, _signalled(original, number, call)):
        return main(given), said.getvalue()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_run_of_which_one_process_is_killed_ends_with_5_and_says_so(
    tiny_cache: TinyCache, tmp_path: Path, case: Case
) -> None:
    run = tmp_path / "run"
    given = ["train-student", str(tiny_cache.experiment), "--cache", str(tiny_cache.cache)]
    given += ["--run", str(run), "--no-validate", "-o", "student.training.epochs=2"]
    given += ["-o", "student.training.batch_size=2"]
    [(code, said)] = in_two_processes(partial(_run, case, given, free_port()), killed=case.victim)
    assert code == 5, said
    message = said[said.index("Error: ") :]
    assert f"Process {1 - case.victim} of 2 has lost another process of this run" in message
    assert "The output of the one that ended first says why." in message
    assert "start all processes again with the same command" in message
    assert "Traceback" not in said
    whole = [path.name for path in (run / STATES_FOLDER).glob("*[0-9]")]
    assert whole == ([] if case.state is None else [f"{case.state:09d}"])


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/torch/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 9ms"), True),
        (RuntimeError("[enforce fail at ../gloo/transport/tcp/pair.cc:446] 8 vs 4"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (dist.DistBackendError("NCCL error in: x.cpp:1\nncclRemoteError: A call failed"), True),
        (dist.DistBackendError("NCCL error in: x.cpp:1\nncclInvalidUsage: Duplicate GPU"), False),
        (dist.DistNetworkError("Connection reset by peer"), True),
        (dist.DistStoreError("Socket Timeout"), True),
    ],
)
def test_errors_of_connections_are_told_from_those_of_the_program(
    error: RuntimeError, lost: bool
) -> None:
    assert lost_another(error) is lost
