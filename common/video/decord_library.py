"""One call of decord, with bounds around what it does wrong.

What was measured on decord 0.6.0, its last release (2022), beside the files that it misreads
(facts.py):

- Bit for bit equal to PyAV for nearly all 8-bit video (decoder_choice.py); interlaced and 10-bit
  video differs.
- Pads some pictures of at most 72 pixels' width, and then fails. Knows no AV1, GIF or AVIF.
- By itself it repeats the last good frame in place of a damaged one, which is turned off here.
- Hides what its codec conceals: a damaged picture that still decodes looks like any other.
- It stumbles over damage it has read ahead to, so whether the sound frames just before it come out
  is a matter of timing; `auto` asks PyAV then, which always gives them.
- It reads ahead without bound and aborts the process when one reader is used by two threads, so
  every call opens its own reader in its own thread and drops it at once.
- One of its loops has no bound. A call that outlasts DECODE_LIMIT_SECONDS is given up; its thread
  cannot be ended and keeps one core busy until the process ends.
"""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reskd.common.video.reader import UnreadableVideoError

T = TypeVar("T")

DECODE_LIMIT_SECONDS = 120.0
"""Longest wait for one call of decord. Ten seconds of 1080p on a busy core take ten."""

DECORD_ENVIRONMENT = {
    # Polls before decord, at the end of a file, repeats a frame. Packets read ahead of a slow
    # decoder count too (64 polls fail sound files of 100 frames), so it must exceed their number.
    "DECORD_EOF_RETRY_MAX": "1000000",
    # fault_tol makes the first repeated frame an error; no warning about it is needed.
    "DECORD_DUPLICATE_WARNING_THRESHOLD": "1.0",
}
SOURCE_LINE = re.compile(r"\[[\d:]+\] \S+?:\d+: ")
"""Time and source line that decord puts before its messages."""

ANY_FAULT = 1e-9
"""decord's fault_tol as a share of the frames: not one of them may be made up."""


def has_decord() -> bool:
    """Whether it is installed; there are no wheels for some machines."""
    return find_spec("decord") is not None


@cache
def load_decord() -> Any:
    """Import decord, quiet. It reads its environment once, while it is loaded."""
    for name, value in DECORD_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    decord = import_module("decord")
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def decode_by_decord(path: Path, positions: Sequence[int], num_frames: int) -> NDArray[np.uint8]:
    """Some frames of a file, (len(positions), H, W, 3) RGB.

    Args:
        path: The file.
        positions: Sorted, distinct, valid frame numbers.
        num_frames: Frames that the file shows; decord must count as many.

    Raises:
        UnreadableVideoError: If decord fails, counts otherwise or does not come back in time.
    """
    decord = load_decord()
    try:
        return _within(
            DECODE_LIMIT_SECONDS, lambda: _get_batch(decord, path, positions, num_frames)
        )
    except TimeoutError as error:
        raise _unreadable(path, f"no answer within {DECODE_LIMIT_SECONDS:g} s") from error
    except _errors(decord) as error:
        # The first line carries the reason; the rest is a C++ stack trace.
        reason = SOURCE_LINE.sub("", str(error)).partition("\n")[0]
        raise _unreadable(path, reason or type(error).__name__) from None


def _get_batch(
    decord: Any, path: Path, positions: Sequence[int], num_frames: int
) -> NDArray[np.uint8]:
    reader = decord.VideoReader(os.fspath(path.absolute()), num_threads=1, fault_tol=ANY_FAULT)
    try:
        if len(reader) != num_frames:
            raise _unreadable(
                path, f"decord counts {len(reader)} frames, {num_frames} are shown (edit list)"
            )
        batch: NDArray[np.uint8] = reader.get_batch(positions).asnumpy()
        return batch
    finally:
        # An exception's traceback would keep the reader and its read-ahead alive.
        del reader


def _unreadable(path: Path, reason: str) -> UnreadableVideoError:
    return UnreadableVideoError(path, "decord", reason)


def _errors(decord: Any) -> tuple[type[Exception], ...]:
    """What decord raises for files it cannot read; its own two classes share no base."""
    limit_reached: type[Exception] = import_module("decord._ffi.base").DECORDLimitReachedError
    own: type[Exception] = decord.DECORDError
    return own, limit_reached, RuntimeError, LookupError, ValueError, AssertionError


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Run a call in a thread of its own and wait for it.

    Raises:
        TimeoutError: If it is not done in time. The thread goes on; it cannot be ended.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            outcome.set_exception(error)

    # A daemon, so that a stuck decoder does not also keep the process from ending.
    Thread(target=run, name="decord", daemon=True).start()
    return outcome.result(timeout=seconds)
