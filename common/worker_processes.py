"""Work in processes: where many threads would wait for Python's lock more than they work.

torch's DataLoader does it: in order, ahead by a bounded amount, tensors through shared memory, and
a process that dies is noticed.
"""

import atexit
import signal
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import (
    active_children,
    forkserver,
    resource_tracker,
    set_forkserver_preload,
)
from pathlib import Path
from shutil import disk_usage
from typing import Any, Final, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from reskd.common.errors import ReskdError

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARED_MEMORY: Final = Path("/dev/shm")
"""Where Linux keeps it; a container often has 64 MB."""
_DEATH: Final = "DataLoader worker (pid"


def start_server_of_workers(modules: Sequence[str] = ()) -> None:
    """Start the process that worker processes are forked from, with signals blocked as in these.

    Ctrl-C, a scheduler and torchrun signal all processes of a group. The main process finishes what
    it has begun, for which it may need the workers still, and ends them itself.

    Args:
        modules: That the workers need: imported once, by the server.
    """
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)
    stopping = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        if modules:
            set_forkserver_preload(list(modules))
        resource_tracker.ensure_running()  # else the server starts it, and it lifts the blocks
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers() -> None:
    """End what still works when this process ends: Python would ask politely, and wait for ever."""
    for worker in active_children():
        if worker.daemon:
            worker.kill()


def shared_memory_holds(num_bytes: int) -> bool:
    """Whether processes can hand each other so much; without Linux's folder nothing limits it."""
    return not SHARED_MEMORY.is_dir() or disk_usage(SHARED_MEMORY).free >= num_bytes


def ordered_map_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    processes: int,
    ahead: int,
    pinned: bool = False,
) -> Generator[Result, None, None]:
    """`ordered_map` in processes, each with one torch thread.

    A process that is killed ends this with a RuntimeError, within seconds: see `worker_has_died`.

    Args:
        function: What to do with an item; it travels to the processes, its results travel back.
            A ReskdError that it raises is raised when the item's turn comes.
        items: Asked for in the calling thread, when there is room for one more.
        processes: At most; no more than `ahead`.
        ahead: Items begun and not yet handed on, about.
        pinned: Whether results are put into memory that a GPU copies from while the CPU goes on:
            tensors, or what has a method `pin_memory`.
    """
    processes = max(1, min(processes, ahead))
    start_server_of_workers([_module_of(function)])
    loader: DataLoader[Any] = DataLoader(
        _Mapped(function),
        batch_size=None,
        sampler=items,
        num_workers=processes,
        prefetch_factor=max(1, ahead // processes),
        collate_fn=_as_it_is,
        multiprocessing_context="forkserver",
        pin_memory=pinned,
        # Else it would draw from torch's own generator.
        generator=torch.Generator(),
    )
    results = iter(loader)
    while True:
        try:
            result = next(results)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # It had finished a result, and was killed before the tensors were fetched from it.
            raise RuntimeError(f"{_DEATH}s unknown) is gone with its result") from error
        if isinstance(result, ReskdError):
            raise result
        yield result


def worker_has_died(error: BaseException) -> bool:
    """Whether an error says that the system has killed a worker, or that it has crashed."""
    return isinstance(error, RuntimeError) and str(error).startswith(_DEATH)


def _module_of(function: object) -> str:
    """The module in which a function, or the class of what is called like one, was written."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__module__", None) or type(inner).__module__)


@dataclass(frozen=True)
class _Mapped(Dataset[Result | ReskdError], Generic[Item, Result]):
    """Results by item instead of by number."""

    function: Callable[[Item], Result]

    def __getitem__(self, item: Item) -> Result | ReskdError:
        try:
            return self.function(item)
        except ReskdError as error:  # raised in a worker it would come with its traceback
            return error


def _as_it_is(result: Result) -> Result:
    return result
