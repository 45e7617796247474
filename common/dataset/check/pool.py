"""Several children at work, watched: one that hangs or dies costs a verdict, never the command."""

import signal
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reskd.common.dataset.check.child import Message, Try, serve
from reskd.common.dataset.check.trial import Trial
from reskd.common.dataset.check.verdicts import VideoCheck
from reskd.common.errors import StoppedShortError

START_SECONDS = 300.0
"""Longest wait for a child to load the decoders, which a busy network disk can draw out."""
LOG_BYTES = 4096
SIGNALS_OF_THE_COMMAND = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


class _Child:
    """One process and what it is doing."""

    def __init__(self, try_one: Try, log: Path) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        self.connection: Connection[Any, Any] = ours
        self.process = context.Process(target=serve, args=(theirs, try_one, log), daemon=True)
        self.log = log
        self.trial: Trial | None = None
        self.num_tried = 0
        with _signals_held_back():
            self.process.start()
        theirs.close()
        self.deadline = time.monotonic() + START_SECONDS

    def give(self, trial: Trial, seconds: float) -> None:
        self.trial = trial
        self.num_tried += 1
        self.deadline = time.monotonic() + seconds
        # That it has just died shows when its reply is waited for.
        with suppress(OSError):
            self.connection.send(trial)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def last_words(self) -> str:
        """How it ended and the last line it wrote."""
        code = self.process.exitcode or 0
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            how += ", as the system does when memory runs out"
        with self.log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"the process was {how}" + (f"; it said: {said}" if said else "")


def try_all(
    trials: Sequence[Trial], *, try_one: Try, jobs: int, seconds: float
) -> Generator[tuple[Trial, VideoCheck]]:
    """Try videos in processes that can be killed.

    Args:
        trials: The videos.
        try_one: What is done with each.
        jobs: Processes at work at once.
        seconds: Longest silence about a video, after which its process is killed.

    Yields:
        Each trial once, with its finding, in the order in which they come.

    Raises:
        StoppedShortError: If a process cannot be started at all, or the system cannot read a video.
    """
    with TemporaryDirectory(prefix="reskd-check-") as folder:
        pool = _Pool(trials, try_one=try_one, seconds=seconds, folder=Path(folder))
        try:
            pool.start(min(jobs, len(trials)))
            while pool.children:
                yield from pool.step()
        finally:
            for child in pool.children:
                child.end()


class _Pool:
    def __init__(
        self, trials: Sequence[Trial], *, try_one: Try, seconds: float, folder: Path
    ) -> None:
        self.children: list[_Child] = []
        self._waiting = deque(trials)
        self._try_one = try_one
        self._seconds = seconds
        self._folder = folder
        self._num_started = 0

    def start(self, number: int) -> None:
        for _ in range(number):
            self._num_started += 1
            log = self._folder / f"{self._num_started}.log"
            log.touch()
            self.children.append(_Child(self._try_one, log))

    def step(self) -> Iterator[tuple[Trial, VideoCheck]]:
        """Wait until something happens, and act on it."""
        now = time.monotonic()
        earliest = min(child.deadline for child in self.children)
        ready = wait([child.connection for child in self.children], max(0.0, earliest - now))
        for child in list(self.children):
            if child.connection in ready:
                yield from self._hear(child)
            elif child.deadline <= time.monotonic():
                yield from self._give_up(child)

    def _hear(self, child: _Child) -> Iterator[tuple[Trial, VideoCheck]]:
        try:
            message = child.connection.recv()
        except Exception:  # noqa: BLE001 - its end, or bytes that are no message: both end it
            message = None
        if not isinstance(message, Message):
            yield from self._bury(child)
        elif message.kind == "alive":
            child.deadline = time.monotonic() + self._seconds
        elif message.kind == "ready":
            self._occupy(child)
        else:
            if message.stopped is not None:
                raise message.stopped
            assert child.trial is not None
            assert message.finding is not None
            outcome = child.trial, message.finding
            child.trial = None
            if message.retires:
                self._replace(child)
            else:
                self._occupy(child)
            yield outcome

    def _occupy(self, child: _Child) -> None:
        if self._waiting:
            child.give(self._waiting.popleft(), self._seconds)
        else:
            self._remove(child)

    def _give_up(self, child: _Child) -> Iterator[tuple[Trial, VideoCheck]]:
        if child.trial is None:
            raise _no_start(child, f"it was not ready within {START_SECONDS:g} s")
        message = (
            f"no sign of life within {self._seconds:g} s; the decoder was killed "
            "(--timeout allows more)"
        )
        outcome = child.trial, VideoCheck(verdict="hang", message=message)
        self._replace(child)
        yield outcome

    def _bury(self, child: _Child) -> Iterator[tuple[Trial, VideoCheck]]:
        """A child has died, or sends what is no message."""
        # One that closed its end and lives on would be waited for without end.
        child.process.join(timeout=1)
        child.process.kill()
        child.process.join()
        words, trial = child.last_words(), child.trial
        if trial is None:
            raise _no_start(child, words)
        if child.num_tried > 1:
            # An earlier video may have broken it: this one is tried again, in a fresh process.
            self._waiting.appendleft(trial)
            self._replace(child)
            return
        self._replace(child)
        yield trial, VideoCheck(verdict="crash", message=words)

    def _replace(self, child: _Child) -> None:
        self._remove(child)
        if self._waiting:
            self.start(1)

    def _remove(self, child: _Child) -> None:
        self.children.remove(child)
        child.end()


def _no_start(child: _Child, why: str) -> StoppedShortError:
    return StoppedShortError(
        f"a process that decodes videos (number {child.process.pid}) did not start: {why}. "
        "Verdicts so far are kept; the same command goes on from there, with fewer --jobs if "
        "memory is short"
    )


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """What is started inside never sees the command's signals; the command sees them after."""
    # It would let signals through when it starts a process of its own in between.
    resource_tracker.ensure_running()
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_OF_THE_COMMAND)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
