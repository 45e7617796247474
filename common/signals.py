"""SIGTERM and SIGUSR1 end a command with exit code 75: clean on disk, safe to requeue.

Signals belong to the main thread. Work that a program does in another one, as Ray's workers do,
runs without these handlers: whoever started it stops it.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from reskd.common.errors import PreemptedError


class StopRequest:
    """Whether a scheduler asked to stop, and how to obey."""

    def __init__(self) -> None:
        self._by: str | None = None

    @property
    def made(self) -> bool:
        """Whether a signal has come."""
        return self._by is not None

    def note(self, number: int) -> None:
        """A signal has come.

        Schedulers send several; only who insists by hand is obeyed before the moment is good.

        Raises:
            KeyboardInterrupt: At a Ctrl-C that is not the first signal.
        """
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._by = self._by or signal.Signals(number).name

    def error(self) -> PreemptedError | KeyboardInterrupt:
        """What to raise when everything is on disk."""
        if self._by == signal.SIGINT.name:
            return KeyboardInterrupt()
        by = self._by or "another process of this run"
        return PreemptedError(
            f"Stopped by {by}. What was finished is on disk; the same command goes on from there."
        )


@contextmanager
def preemptible() -> Iterator[None]:
    """Turn the signals of schedulers into PreemptedError inside the block."""

    def stop(number: int, frame: FrameType | None) -> None:
        request = StopRequest()
        request.note(number)
        raise request.error()

    with _handled_by(stop, signal.SIGTERM, signal.SIGUSR1):
        yield


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note the signals of schedulers and Ctrl-C inside the block.

    For work that stops at a moment of its own. A Ctrl-C that is ignored stays so: it is meant for
    what runs in the foreground of the terminal, not for a command that a script has started with
    `&` there. What schedulers send is obeyed even then.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.note(number)

    numbers = [signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    with _handled_by(note, *numbers):
        yield request


@contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python refuses handlers here
        return
    earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
