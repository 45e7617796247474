"""Two processes of one training run, started for a test."""

import os
import pickle
import signal
import socket
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from reskd.student_train.distributed import ProcessGroup
from tests.tiny_experiment import CPU

WORLD = 2
SECONDS = 120

Found = TypeVar("Found")


def in_one_group(work: Callable[[ProcessGroup], Found]) -> list[Found]:
    """What two new processes return that have joined one gloo group.

    Args:
        work: What each of them does; pickled, so a function of a module or a partial one.

    Returns:
        What the first process found and what the second one did.

    Raises:
        RuntimeError: As of `in_two_processes`.
    """
    with TemporaryDirectory() as folder:
        return in_two_processes(partial(_as_member, work, (Path(folder) / "meet").as_uri()))


def in_two_processes(work: Callable[[int], Found], *, killed: int | None = None) -> list[Found]:
    """What two new processes return that only know their rank.

    They are forked from a server of this test process that has done their imports (conftest.py) and
    has none of its threads.

    Args:
        work: What each of them does; pickled, so a function of a module or a partial one.
        killed: Rank of the one that has to die of SIGKILL.

    Returns:
        What the first process found and what the second one did; nothing of one that was killed.

    Raises:
        RuntimeError: If one of them fails, exits with an error or takes longer than SECONDS,
            or the one to be killed lives.
    """
    context = get_context("forkserver")
    processes, pipes = [], []
    for rank in range(WORLD):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(work, rank, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    try:
        received = [_received(pipe) for pipe in pipes]
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()
            process.join()
    ends = [process.exitcode for process in processes]
    expected = [-signal.SIGKILL if rank == killed else 0 for rank in range(WORLD)]
    if ends != expected:
        raise RuntimeError(f"The processes ended with {ends}, not {expected}; stderr says why.")
    return [pickle.loads(found) for rank, found in enumerate(received) if rank != killed]


def as_torchrun_does(rank: int, port: int) -> None:
    """Tell a command by this process's environment which one of the two it is."""
    os.environ.update(
        WORLD_SIZE=str(WORLD), RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def as_srun_does(rank: int, job: int) -> None:
    """The same by what Slurm tells the tasks of the first step of a job, on one node."""
    os.environ.update(
        SLURM_JOB_ID=str(job),
        SLURM_STEP_ID="0",
        SLURM_STEP_NUM_TASKS=str(WORLD),
        SLURM_STEP_NUM_NODES="1",
        SLURM_PROCID=str(rank),
        SLURM_LOCALID=str(rank),
    )


def free_port() -> int:
    """For the two to meet at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _received(pipe: Connection) -> bytes:
    """Nothing of a process that failed or hangs: its exit code tells."""
    try:
        return pipe.recv_bytes() if pipe.poll(SECONDS) else b""
    except EOFError:
        return b""


def _send(work: Callable[[int], Any], rank: int, pipe: Connection) -> None:
    torch.set_num_threads(1)
    # Pickled here: a connection would send a tensor as a handle that dies with this process.
    pipe.send_bytes(pickle.dumps(work(rank)))


def _as_member(work: Callable[[ProcessGroup], Found], meet: str, rank: int) -> Found:
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=WORLD)
    found = work(ProcessGroup(CPU, rank=rank, world=WORLD))
    dist.destroy_process_group()
    return found
