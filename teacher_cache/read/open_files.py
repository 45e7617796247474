"""Open files of shard objects, as many as the process may have."""

import os
import resource
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
CLOSED = -1
"""In a table of descriptors."""
MOST_OPEN_FILES = 1 << 16
"""Descriptors a process asks for; some systems allow a thousand million, which helps nobody."""


def raise_open_file_limit() -> int:
    """Let this process open as many files as it is allowed to ask for; returns how many.

    The soft limit is 1024 on most systems, for programs that call select(); a cache of Kinetics-400
    has ten thousand objects. The hard limit stays as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS allows fewer than it says; the soft limit still holds
        return soft
    return wanted


class OpenFiles:
    """File descriptors of shard objects, at most half of what the process may have.

    The oldest are closed when nobody is reading.
    """

    def __init__(self) -> None:
        self._opened: deque[tuple[Numbers, int]] = deque()
        self._limit = raise_open_file_limit() // 2
        self._lock = Lock()
        self._reading = 0

    def keep(self, descriptor: int, table: Numbers, place: int) -> None:
        """Put an open file into a caller's table."""
        with self._lock:
            if table[place] != CLOSED:  # another thread was faster
                os.close(descriptor)
                return
            table[place] = descriptor
            self._opened.append((table, place))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While it lasts, no descriptor is closed."""
        with self._lock:
            self._reading += 1
        try:
            yield
        finally:
            with self._lock:
                self._reading -= 1
                if not self._reading:
                    self._close_down_to(self._limit)

    def close(self) -> None:
        """Close all; nobody may be reading."""
        with self._lock:
            self._close_down_to(0)

    def __del__(self) -> None:
        self._close_down_to(0)  # without the lock: after a fork it may be held for ever

    def _close_down_to(self, kept: int) -> None:
        while len(self._opened) > kept:
            table, place = self._opened.popleft()
            os.close(int(table[place]))
            table[place] = CLOSED
