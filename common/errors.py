"""Mistakes a user can fix, and the exit code each ends with.

Every message says what was found, which file, row or field it concerns, what was allowed and what
to do next. Anything else that escapes is a bug of ours and keeps its traceback (exit code 1).
PreemptedError is no mistake at all: a scheduler wants its machine back.
"""

from typing import ClassVar


class ReskdError(Exception):
    """Base of the errors that end a command with a message instead of a traceback."""

    exit_code: ClassVar[int] = 1


class ExperimentError(ReskdError):
    """The experiment file or an override is wrong."""

    exit_code = 3


class DataError(ReskdError):
    """A video, an index or a checkpoint given by the user is missing or wrong."""

    exit_code = 3


class LaunchError(ReskdError):
    """Processes of one run were started so that they cannot work together."""

    exit_code = 3


class CacheError(ReskdError):
    """A record of the cache is unreadable, damaged, or belongs to another experiment."""

    exit_code = 4


class StoppedShortError(ReskdError):
    """The work could not be finished; what was committed is kept and the command can go on."""

    exit_code = 5


class PreemptedError(BaseException):
    """A signal asked to stop; the state on disk is clean, so the command is safe to requeue.

    It may come out of any line (`preemptible`), a library's too, which must not take it for a
    failure of its own: hence no Exception, like KeyboardInterrupt.
    """

    exit_code: ClassVar[int] = 75
