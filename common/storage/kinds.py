"""Inputs are files: a pipe would be waited for, perhaps for ever, and a device has no end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

_KINDS: Final = (
    (stat.S_ISDIR, "a folder", errno.EISDIR),
    (stat.S_ISFIFO, "a pipe (FIFO)", errno.EINVAL),
    (stat.S_ISSOCK, "a socket", errno.ENXIO),
    (stat.S_ISCHR, "a device", errno.EINVAL),
    (stat.S_ISBLK, "a device", errno.EINVAL),
)


class NotAFileError(OSError):
    """Something lies where a file is expected, and it is none."""


def open_file(path: Path) -> BinaryIO:
    """Open a file to read it; never waits for the writer of a pipe.

    Raises:
        NotAFileError: If it is something else.
        OSError: As the system reports it.
    """
    require_file(path)  # what a mere opening would set going, or wait for
    return path.open("rb")


def read_file(path: Path) -> bytes:
    """All of a file.

    Raises:
        NotAFileError: If it is something else.
        OSError: As the system reports it, with the name of the file.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        name_it(error, path)
        raise


def name_it(error: OSError, path: Path) -> None:
    """Give an error its file: of one that is open the system does not say which it is."""
    if error.errno is not None and error.filename is None:
        error.filename = os.fspath(path)


def kind_besides_file(path: Path) -> str | None:
    """What is there instead of a file; None if it is one, or if there is nothing."""
    found = _kind(path)
    return None if found is None else found[0]


def require_file(path: Path) -> None:
    """Refuse what is no file, before it is opened.

    Raises:
        NotAFileError: If something else is there. Whether anything is shows on opening.
    """
    if (found := _kind(path)) is not None:
        kind, number = found
        raise NotAFileError(number, f"it is {kind}, not a file", os.fspath(path))


def _kind(path: Path) -> tuple[str, int] | None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return next(((kind, number) for is_one, kind, number in _KINDS if is_one(mode)), None)
