"""SIGTERM and SIGUSR1 end a command with exit code 75: clean on disk, safe to requeue."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from common.errors import PreemptedError


@contextmanager
def preemptible() -> Iterator[None]:
    """Turn the signals of schedulers into PreemptedError inside the block (main thread only)."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise PreemptedError(
            f"Stopped by {signal.Signals(number).name}. What was finished is on disk; the same "
            "command goes on from there."
        )

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
