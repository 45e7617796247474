"""Two processes of one training run, started for a test."""

import pickle
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

Answer = TypeVar("Answer")


def in_one_group(work: Callable[[ProcessGroup], Answer]) -> list[Answer]:
    """What two new processes answer that have joined one gloo group.

    Args:
        work: What each of them does; pickled, so a function of a module or a partial one.

    Returns:
        The first process's answer and the second one's.

    Raises:
        RuntimeError: As of `in_two_processes`.
    """
    with TemporaryDirectory() as folder:
        return in_two_processes(partial(_as_member, work, (Path(folder) / "meet").as_uri()))


def in_two_processes(work: Callable[[int], Answer]) -> list[Answer]:
    """What two new processes answer that only know their rank.

    Imports take them far longer than a tiny run does. So one fresh process, without the test
    process's threads, imports what `work` needs and is then forked in two.

    Args:
        work: What each of them does; pickled, so a function of a module or a partial one.

    Returns:
        The first process's answer and the second one's.

    Raises:
        RuntimeError: If one of them fails, exits with an error or takes longer than SECONDS.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    origin = context.Process(target=_fork_in_two, args=(work, theirs))
    origin.start()
    theirs.close()
    try:
        # It gives up by itself, and earlier: killed, it would leave the two behind.
        if not ours.poll(3 * SECONDS):
            raise RuntimeError("The processes did not start.")
        answers, ends = ours.recv()
    except EOFError:
        raise RuntimeError("The processes did not start; stderr says why.") from None
    finally:
        origin.kill()
        origin.join()
    if ends != [0] * WORLD:
        raise RuntimeError(f"The processes ended with {ends}, not with 0; stderr says why.")
    return [pickle.loads(answer) for answer in answers]


def _fork_in_two(work: Callable[[int], Any], found: Connection) -> None:
    """Send both pickled answers, and both exit codes."""
    context = get_context("fork")
    processes, answers = [], []
    for rank in range(WORLD):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(work, rank, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        answers.append(ours)
    try:
        received = [_received(answer) for answer in answers]
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()
            process.join()
    found.send((received, [process.exitcode for process in processes]))


def _received(answer: Connection) -> bytes:
    """Nothing of a process that failed or hangs: its exit code tells."""
    try:
        return answer.recv_bytes() if answer.poll(SECONDS) else b""
    except EOFError:
        return b""


def _answer(work: Callable[[int], Any], rank: int, answer: Connection) -> None:
    # Pickled here: a connection would send a tensor as a handle that dies with this process.
    answer.send_bytes(pickle.dumps(work(rank)))


def _as_member(work: Callable[[ProcessGroup], Answer], meet: str, rank: int) -> Answer:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=WORLD)
    answer = work(ProcessGroup(CPU, rank=rank, world=WORLD))
    dist.destroy_process_group()
    return answer
