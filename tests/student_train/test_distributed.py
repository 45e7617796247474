"""Processes that cannot meet say why; one that has no others waits for none."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from reskd.common.errors import LaunchError
from reskd.student_train import distributed
from reskd.student_train.distributed import joined_processes
from tests.student_train.two_processes import as_srun_does, free_port

STARTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID")


@pytest.fixture(autouse=True)
def _as_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of task 0 of two of a job, and little time to meet the other."""
    for name in STARTED:
        monkeypatch.delenv(name, raising=False)
    for name in ("JOB_ID", "STEP_ID", "STEP_NUM_TASKS", "STEP_NUM_NODES", "PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "")  # put back as it was after the test
    as_srun_does(0, job=1)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr(distributed, "MEETING_SECONDS", 0.2)


@pytest.mark.parametrize("rank", [0, 1])
def test_process_whose_others_never_come_is_told_where_it_waited(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("SLURM_PROCID", str(rank))
    text = f"(?s)Process {rank} of 2 did not meet the others at 127.0.0.1:{port}.*srun --pty"
    with pytest.raises(LaunchError, match=text), joined_processes("cpu"):
        pass


def test_node_of_an_unknown_name_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "MEETING_SECONDS", 600)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "no[1-2].such-node.invalid")
    text = r"(?s)at no1\.such-node\.invalid:\d+: .*where the host is not found set MASTER_ADDR"
    with pytest.raises(LaunchError, match=text), joined_processes("cpu"):
        pass


def test_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with (
            pytest.raises(LaunchError, match=r"(?s)in use.*set MASTER_PORT"),
            joined_processes("cpu"),
        ):
            pass


def test_batch_script_of_several_tasks_runs_alone_and_says_how_to_use_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_STEP_ID")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with joined_processes("cpu") as processes:
        assert (processes.rank, processes.world) == (0, 1)
    said = capsys.readouterr().err
    assert "room for 8 tasks" in said
    assert "with srun" in said


def test_single_task_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with joined_processes("cpu") as processes:
        assert processes.world == 1
    assert capsys.readouterr().err == ""


def test_process_alone_on_a_gpu_makes_that_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current = ["cuda:0"]

    @contextmanager
    def made_current(device: torch.device) -> Iterator[None]:
        current.append(str(device))
        yield
        current.pop()

    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setattr(torch.cuda, "device", made_current)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with joined_processes("cuda:1") as processes:
        assert str(processes.device) == current[-1] == "cuda:1"
    assert current == ["cuda:0"]
