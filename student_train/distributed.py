"""The processes of one training run: one, or as many as torchrun or srun started (LAUNCH.md).

Every process sees the same experiment and the same order of clips and takes its part of each step,
so what is trained on never depends on how many there are. What they tell each other beside
gradients goes through gloo on the CPU.
"""

import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import Store, _abort_process_group
from torch.distributed.rendezvous import rendezvous

from reskd.common.console import say
from reskd.common.devices import choose_device
from reskd.common.errors import LaunchError, StoppedShortError
from reskd.common.launch import Launch, read_launch
from reskd.common.prefetch import num_cores
from reskd.student_train.parts_of_work import PartsOfWork

MEETING_SECONDS: Final = 600
"""Time that processes have to find each other: some nodes of a job begin minutes after others."""
_OF_GLOO: Final = re.compile(r"\[\S*/gloo/transport/[^\]\s]*\] ")
"""What gloo's errors of connections begin with: where they come from. Its others do not."""
_NOT_OF_ANOTHER: Final = re.compile("ncclInvalid|ncclUnhandledCuda")
"""NCCL's names of errors of this process and its GPU."""


def own_cores() -> int:
    """Cores of this process, which shares those of its machine with others of torchrun here.

    srun gives each process cores of its own.
    """
    return max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among the others."""

    device: torch.device
    """Where it computes."""
    rank: int = 0
    """Its number."""
    world: int = 1
    """How many there are."""
    store: Store | None = field(default=None, repr=False, compare=False)
    """Where they have met; None where that is not known."""

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and talks."""
        return self.rank == 0

    def totals(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set in any process."""
        return [value > 0 for value in self._reduced([float(f) for f in flags], dist.ReduceOp.MAX)]

    def any_later(self, *flags: bool) -> Callable[[], list[bool]]:
        """What `any` says, asked for now and told when the answer is called for."""
        if self.world == 1:
            return lambda: list(flags)
        told = torch.tensor(flags, dtype=torch.uint8)
        work = dist.all_reduce(told, dist.ReduceOp.MAX, async_op=True)

        def answer() -> list[bool]:
            work.wait()
            return [bool(flag) for flag in told.tolist()]

        return answer

    def all_of(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their numbers."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors, of the same shapes in all processes, by those of the first one."""
        if self.world == 1:
            return
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, src=0)
            tensor.detach().copy_(sent)

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1))  # unlike barrier() it needs no GPU

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Work of which each process does its own part, in minutes or days; they leave it together.

        Nothing here has a time limit, and signals are obeyed while a process waits.

        Raises:
            StoppedShortError: If another process failed at its part.
            PreemptedError: If another one was asked to stop.
        """
        if self.world == 1:
            yield
            return
        assert self.store is not None, "only processes that joined can work apart"
        parts = PartsOfWork(self.store, self.all_of(uuid4().hex)[0], self.rank, self.world)
        with parts.ended_together():
            yield

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.world == 1 or not values:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        reduced: list[float] = tensor.tolist()
        return reduced


class DelayedFlags:
    """Flags of all processes, known one exchange later, so that none waits for the slowest one.

    A process alone knows its own at once.

    Args:
        processes: This one and the others, which exchange equally often.
    """

    def __init__(self, processes: ProcessGroup) -> None:
        self._processes = processes
        self._answer: Callable[[], list[bool]] | None = None

    def exchange(self, *flags: bool) -> list[bool]:
        """For each flag whether it was set in any process at the exchange before this one."""
        answer = self._processes.any_later(*flags)
        if self._processes.world == 1:
            return answer()
        before, self._answer = self._answer, answer
        return [False] * len(flags) if before is None else before()

    def forget(self) -> None:
        """Let nothing be on the way any more."""
        if self._answer is not None:
            self._answer()
            self._answer = None


@contextmanager
def joined_processes(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that this one was started with (`common.launch`); alone without them.

    Args:
        device: Name for `choose_device`; of several CUDA devices each process takes its own.

    Raises:
        DataError: If the device is unknown or not present.
        LaunchError: If the environment contradicts itself or the others do not come.
        StoppedShortError: Out of the block, if another process has ended or cannot be reached.
    """
    launch = read_launch(os.environ)
    chosen = choose_device(device)
    if launch.world == 1:
        if launch.idle_tasks:
            say(_idle_text(launch.idle_tasks + 1))
        with _current(chosen):
            yield ProcessGroup(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", launch.gpu(torch.cuda.device_count()))
        torch.cuda.set_device(chosen)
    # gloo for tensors on the CPU, NCCL for those on a GPU.
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    try:
        store = _join(launch, backend)
        yield ProcessGroup(chosen, rank=launch.rank, world=launch.world, store=store)
    except RuntimeError as error:  # out of a collective, or out of a backward pass with one in it
        if not lost_another(error):
            raise
        if dist.is_initialized():
            _abort_process_group()  # to destroy NCCL's would be to wait for what nobody answers
        raise StoppedShortError(_lost_text(launch, str(error))) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def lost_another(error: RuntimeError) -> bool:
    """Whether this is what torch raises where another process has ended or cannot be reached.

    NCCL and the store have types of their own, gloo has none: it says where in its source it was.
    """
    if isinstance(error, dist.DistError):
        return _NOT_OF_ANOTHER.search(str(error)) is None
    return _OF_GLOO.match(str(error)) is not None


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Let what names no device take this one, not the first: threads that pin memory, compilers."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _join(launch: Launch, backend: str) -> Store:
    """Go on as a member of the group when all processes have come to the first one."""
    place = "env://"  # where the store is that torchrun has begun already
    if launch.by != "torchrun":
        host = f"[{launch.address}]" if ":" in str(launch.address) else launch.address
        place = f"tcp://{host}:{launch.port}"
        if launch.rank == 0:
            say(f"Process 0 of {launch.world} waits for the others at {host}:{launch.port}.")
    patience = timedelta(seconds=MEETING_SECONDS)
    store: Store
    try:
        if launch.by == "srun":  # the name of a pod may become known later, that of a node not
            socket.getaddrinfo(launch.address, launch.port)
        store, rank, world = next(rendezvous(place, launch.rank, launch.world, timeout=patience))
    except (dist.DistError, socket.gaierror) as error:
        raise LaunchError(_unmet_text(launch, str(error))) from error
    store.set_timeout(default_pg_timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return store


def _unmet_text(launch: Launch, why: str) -> str:
    return (
        f"Process {launch.rank} of {launch.world} did not meet the others at "
        f"{launch.address}:{launch.port}: {why.splitlines()[0]}. "
        "Look for another one that ended before. Where the port is taken set MASTER_PORT to a free "
        "one, where the host is not found set MASTER_ADDR, for all processes alike; in a shell of "
        "`srun --pty` start the command with srun."
    )


def _lost_text(launch: Launch, error: str) -> str:
    why = _OF_GLOO.sub("", error).splitlines()[0].split(". ")[0]  # no guesses of torch's
    return (
        f"Process {launch.rank} of {launch.world} has lost another process of this run, which has "
        f"ended or cannot be reached: {why}. "
        "The output of the one that ended first says why. What was committed is kept: start all "
        "processes again with the same command, and they go on from there."
    )


def _idle_text(tasks: int) -> str:
    return (
        f"Slurm has room for {tasks} tasks, and this is one process: start the command with srun "
        f"to use all {tasks}. (One task with many cores is --ntasks 1 --cpus-per-task N.)"
    )
