"""What an errno means to a user: whose affair it is, and what to do.

An input that is not there, or is of the wrong kind, is wrong data. Any other errno is the system's:
the same command goes on once the storage is sound again.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from reskd.common.storage.kinds import NotAFileError, name_it

ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Nothing can be read there, whoever asks."""
WRONG_KIND: Final = frozenset({errno.EISDIR, errno.ENXIO})
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
WRITING: Final = "while writing"
"""Note on errors of an output."""

_REMEDIES: Final[Mapping[int, str]] = {
    **dict.fromkeys(NO_SPACE, "Make room"),
    errno.EFBIG: "Choose a file system, or a limit (`ulimit -f`), that allows larger files",
    errno.EROFS: "Mount it so that it may be written to, or name another place",
    errno.EACCES: "Allow this user to do that, or name another place",
    errno.EPERM: "Allow this user to do that, or name another place",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), or use fewer threads",
    errno.ENFILE: "Raise the system's limit of open files, or end what else has files open",
    errno.ENOMEM: "End what else uses memory",
    errno.ESTALE: "Mount its network file system anew",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EBUSY: "Wait for what else uses it",
    errno.ETXTBSY: "Wait for what else uses it",
}
_SOUND: Final = "See whether its disk or network mount is sound (`dmesg` may tell)"


class Told(NamedTuple):
    """How a command ends on an error of the system."""

    exit_code: int
    message: str


def tell(error: OSError) -> Told:
    """The exit code and the words for an error that nobody has explained better.

    3 for an input that is missing or of the wrong kind, else 5.
    """
    number = error.errno or 0
    writes = WRITING in getattr(error, "__notes__", ())
    what = _named(error)
    if isinstance(error, NotAFileError) or (not writes and number in ABSENT | WRONG_KIND):
        return Told(3, f"cannot read {what}. Name a file that is there")
    goes_on = "run the same command again; what was committed before is whole and kept."
    if number in NO_SPACE:
        return Told(5, f"no space left: cannot write {what}. {remedy(number)} and {goes_on}")
    does = "write" if writes else "read or write" if number == errno.EROFS else "read"
    return Told(5, f"the system failed: cannot {does} {what}. {remedy(number)} and {goes_on}")


def remedy(number: int | None) -> str:
    """What to do about an errno; an order, without a full stop."""
    return _REMEDIES.get(number or 0, _SOUND)


def errno_text(error: OSError) -> str:
    """The system's words for an error, with the name of its number."""
    if error.errno is None:
        return str(error) or type(error).__name__
    name = errno.errorcode.get(error.errno, str(error.errno))
    return f"{error.strerror or os.strerror(error.errno)} ({name})"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system inside are those of an output: they say so, and name it."""
    try:
        yield
    except OSError as error:
        name_it(error, path)
        error.add_note(WRITING)
        raise


def _named(error: OSError) -> str:
    paths = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " as ".join(os.fsdecode(name) for name in paths) or "a file"
    return f"{where}: {errno_text(error)}"
