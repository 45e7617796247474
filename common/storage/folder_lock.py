"""One process at a time works in a folder; a lock that the system lifts when the process dies."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from reskd.common.console import say
from reskd.common.errors import StoppedShortError

_WITHOUT_LOCKS: Final = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What network file systems report that know no locks, or none on folders."""


def holder_of(path: Path) -> str:
    """Who holds a file that stands for a folder, as `locked` noted it; empty if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "Another process"
    except OSError:  # a file system without locks
        return ""
    else:
        return ""
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, task: str, advice: str) -> Iterator[None]:
    """Hold a folder for this process, or a file that stands for it.

    A folder is left as it is. A file is made if absent, keeps who held it last, and can be locked
    where a network file system knows no locks on folders; it is best never removed.

    Args:
        path: What to hold.
        task: What the holder is doing, for those who come too late.
        advice: And what these are to do.

    Raises:
        StoppedShortError: If another process holds it.
    """
    is_folder = path.is_dir()
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            noted = "" if is_folder else os.pread(descriptor, 1000, 0).decode(errors="replace")
            holder = noted.strip() or "Another process"
            raise StoppedShortError(f"{holder} is {task}. {advice}") from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            say(
                f"{path} is on a file system without locks ({error.strerror}): nothing but you "
                "keeps a second process from working there."
            )
        if not is_folder:
            os.truncate(descriptor, 0)
            me = f"Process {os.getpid()} on {socket.gethostname()}\n"
            os.pwrite(descriptor, me.encode(), 0)
        yield
    finally:
        os.close(descriptor)
