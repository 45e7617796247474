"""Who works in a folder: locks that the system lifts when their process dies.

A lock is one process's, or shared by several. Not every file system knows locks, and some know
those of their own machine alone: what the mount table tells of that is said, once.
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from stat import S_ISDIR
from typing import Final

from reskd.common.console import say
from reskd.common.errors import StoppedShortError
from reskd.common.storage.lock_reach import why_locks_stay_here
from reskd.common.storage.system_errors import writing

_WITHOUT_LOCKS: Final = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What network file systems report that know no locks, or none on folders."""
_SECONDS_BETWEEN_TRIES: Final = 0.05
_SECONDS_IN_SILENCE: Final = 3.0
"""After so long it is said who is waited for."""


def holder_of(path: Path) -> str:
    """Who holds a file that stands for a folder, as `locked` noted it; empty if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _noted(descriptor)
    except OSError:  # a file system without locks
        return ""
    else:
        return ""
    finally:
        os.close(descriptor)


@contextmanager
def locked(
    path: Path, *, task: str, advice: str, shared: bool = False, patience: float = 0.0
) -> Iterator[bool]:
    """Hold a folder for this process, or a file that stands for it.

    A folder is left as it is. A file is made if absent, keeps who held it last alone, and can be
    locked where a network file system knows no locks on folders; it is best never removed.

    Args:
        path: What to hold.
        task: What the holder is doing, for those who come too late.
        advice: And what these are to do.
        shared: Hold it together with others that share it.
        patience: Seconds to wait for it.

    Yields:
        Whether that keeps others away, on other machines too.

    Raises:
        StoppedShortError: If another process holds it.
        OSError: As the system reports it, with the path.
        FileNotFoundError: If there is no such folder, or the one that held it last removed it.
    """
    with writing(path):
        is_folder = path.is_dir()
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with writing(path):
            problem = _taken(path, descriptor, shared, patience, task, advice)
            if is_folder and not os.path.samestat(os.fstat(descriptor), path.stat()):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if problem is not None:
                _say_once(path if is_folder else path.parent, problem)
            if not (is_folder or shared):
                os.truncate(descriptor, 0)
                me = f"Process {os.getpid()} on {socket.gethostname()}\n"
                os.pwrite(descriptor, me.encode(), 0)
        yield problem is None
    finally:
        os.close(descriptor)


def _taken(
    path: Path, descriptor: int, shared: bool, patience: float, task: str, advice: str
) -> str | None:
    """Take a lock; gives the reason why that keeps not everybody away, if there is one."""
    try:
        _take(descriptor, shared, patience, task, advice)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return f"is on a file system without locks ({error.strerror})"
    return why_locks_stay_here(path)


def _take(descriptor: int, shared: bool, patience: float, task: str, advice: str) -> None:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    begin, told = time.monotonic(), False
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            waited = time.monotonic() - begin
            if waited >= patience:
                raise StoppedShortError(f"{_noted(descriptor)} is {task}. {advice}") from error
            if waited > _SECONDS_IN_SILENCE and not told:
                say(f"waiting: {_noted(descriptor)} is {task}")
                told = True
            time.sleep(_SECONDS_BETWEEN_TRIES)


def _noted(descriptor: int) -> str:
    """Who holds a lock that was just refused."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        is_folder = S_ISDIR(os.fstat(descriptor).st_mode)
        noted = "" if is_folder else os.pread(descriptor, 1000, 0).decode(errors="replace")
        return noted.strip() or "Another process"
    # Those who share it note nothing; what is noted there is of someone before them.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return "Another process"


@cache
def _say_once(folder: Path, problem: str) -> None:
    say(f"{folder} {problem}: nothing but you keeps a second process from working there.")
