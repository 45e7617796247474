"""Work ahead in threads, in order, with a bound on how far; and finish behind in one."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import ParamSpec, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
P = ParamSpec("P")


def num_cores() -> int:
    """Cores that this process may use: a job of a cluster has a share of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int | None = None,
    pool: Callable[[int], ThreadPoolExecutor] = ThreadPoolExecutor,
) -> Generator[Result, None, None]:
    """Like map, but the next items are already being worked on.

    Results come in the order of the items. An exception in one item is raised when its turn comes.
    A slow item holds up the results behind it, not the threads, while `ahead` allows more items.

    Args:
        function: What to do with an item.
        items: Asked for in the calling thread, when there is room for one more.
        threads: That work.
        ahead: Items begun and not yet handed on; None takes two more than threads.
        pool: Makes the threads.
    """
    most = threads + 2 if ahead is None else ahead
    waiting: deque[Future[Result]] = deque()
    with pool(threads) as workers:
        try:
            for item in items:
                waiting.append(workers.submit(function, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Follower:
    """Runs calls behind the caller: in order, in one thread, at most `behind` of them unfinished.

    Used as a context. What a call raises ends it: no later call runs, and the caller gets the
    exception when it next waits, at the latest on leaving. Leaving with an exception drops what
    has not begun.
    """

    def __init__(self, behind: int, name: str) -> None:
        self._behind = behind
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: deque[Future[None]] = deque()
        self._ended = Event()

    def submit(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have it called; waits until no more than `behind` calls are unfinished."""

        def run() -> None:
            if self._ended.is_set():
                return
            try:
                call(*args, **kwargs)
            except BaseException:
                self._ended.set()
                raise

        self._waiting.append(self._pool.submit(run))
        while len(self._waiting) > self._behind:
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Until all calls are finished."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._ended.set()
            self._pool.shutdown()
