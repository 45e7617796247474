"""What an errno means to a user: whose affair it is, and what to do.

An input that is not there, or is of the wrong kind, is wrong data (exit code 3). Any other errno is
the system's, and so is every one of an output (5): the same command goes on once it is sound again.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Final, NamedTuple

from reskd.common.storage.kinds import NotAFileError, name_it

ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Nothing can be read there, whoever asks."""
WRONG_KIND: Final = frozenset({errno.EISDIR, errno.ENXIO})
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_WRITING: Final = "while writing"
"""Note on errors of an output."""

_REMEDIES: Final[Mapping[int, str]] = {
    **dict.fromkeys(NO_SPACE, "Make room"),
    **dict.fromkeys(ABSENT, "See whether its folder is there, or name another place"),
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EISDIR: "Name another place, or remove the folder",
    errno.EEXIST: "Name another place, or remove what is there",
    errno.ENOTEMPTY: "Name another place, or remove what is there",
    errno.EFBIG: "Choose a file system, or a limit (`ulimit -f`), that allows larger files",
    errno.EROFS: "Mount it so that it may be written to, or name another place",
    errno.EACCES: "Allow this user to do that, or name another place",
    errno.EPERM: "Allow this user to do that, or name another place",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), or use fewer threads",
    errno.ENFILE: "Raise the system's limit of open files, or end what else has files open",
    errno.ENOMEM: "End what else uses memory",
    errno.ESTALE: "Mount its network file system anew",
    errno.EBUSY: "Wait for what else uses it",
    errno.ETXTBSY: "Wait for what else uses it",
}
_SOUND: Final = "See whether its disk or network mount is sound (`dmesg` may tell)"

_CHANGES: Final[Mapping[str, str]] = {
    "mkdir": "make the folder",
    "mkdtemp": "make the folder",
    "rename": "rename",
    "replace": "rename",
    "rmdir": "remove",
    "rmtree": "remove",
    "symlink_to": "make the link",
    "touch": "make the file",
    "unlink": "remove",
    "write_bytes": "write",
    "write_text": "write",
}
"""Functions of Python that change what is on disk, and what they do."""


class Told(NamedTuple):
    """How a command ends on an error of the system."""

    exit_code: int
    message: str


def tell(error: OSError) -> Told:
    """The exit code and the words for an error that nobody has explained better."""
    change = _change_of(error)
    if change is None and is_wrong_input(error):
        return Told(3, f"cannot read {_named(error)}. Name a file that is there.")
    does = change or "read or write"
    why = "no space left" if error.errno in NO_SPACE else "the system failed"
    return Told(
        5,
        f"{why}: cannot {does} {_named(error)}. {remedy(error.errno)}, and run the same command "
        "again; what was committed before is whole and kept.",
    )


def is_wrong_input(error: OSError) -> bool:
    """Whether what was to be read is missing, or is no file; else the system has failed."""
    return isinstance(error, NotAFileError) or error.errno in ABSENT | WRONG_KIND


def input_problem(error: Exception) -> str:
    """What is wrong with an input, in few words; of an error of the system that it is missing.

    Raises:
        OSError: The error itself, if the system has failed.
    """
    if not isinstance(error, OSError):
        return str(error)
    if not is_wrong_input(error):
        raise error
    return error.strerror or str(error)


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
        error.add_note(_WRITING)
        raise


def _change_of(error: OSError) -> str | None:
    """What was being done to an output; None if nothing tells that something was changed."""
    for frame, _ in walk_tb(error.__traceback__):
        name = frame.f_code.co_name
        if name in _CHANGES and frame.f_code.co_filename.endswith(("pathlib.py", "shutil.py")):
            return _CHANGES[name]
        mode = frame.f_locals.get("mode") if name == "open" else None
        if isinstance(mode, str) and set(mode) & set("wax+"):
            return "write"
    return "write" if _WRITING in getattr(error, "__notes__", ()) else None


def _named(error: OSError) -> str:
    paths = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " as ".join(os.fsdecode(name) for name in paths) or "a file"
    return f"{where}: {errno_text(error)}"
