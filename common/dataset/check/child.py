"""A process that tries one video after another, and may die of any of them.

It keeps away from everything its parent needs: what decoders print goes to a file, signals meant
for the command are the command's, and where memory runs out it is the first to be killed.
"""

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from threading import enumerate as threads
from typing import Literal

from reskd.common.dataset.check.trial import Alive, Trial
from reskd.common.dataset.check.verdicts import VideoCheck
from reskd.common.errors import StoppedShortError

Try = Callable[[Trial, Alive], VideoCheck]
"""How a video is tried; a function of a module, so that the child finds it by name."""

OWN_THREADS = frozenset({"MainThread", "parent watch"})
OUT_OF_MEMORY_SCORE = "1000"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What a child says."""

    kind: Literal["ready", "alive", "done"]
    finding: VideoCheck | None = None
    """With `done`."""
    stopped: StoppedShortError | None = None
    """With `done`, instead of a finding: the system fails, and the command must stop."""
    retires: bool = False
    """With `done`: it ends now, because something of the last video is still at work in it."""


def serve(connection: "Connection[Message, Trial]", try_one: Try, log: Path) -> None:
    """Main function of the process: try each video it is given, until the other end is closed."""
    _keep_apart(log)
    Thread(target=_end_with_parent, name="parent watch", daemon=True).start()
    connection.send(Message(kind="ready"))
    while True:
        try:
            trial = connection.recv()
        except EOFError:
            return
        os.ftruncate(2, 0)
        finding, stopped = None, None
        try:
            finding = _find(try_one, trial, lambda: connection.send(Message(kind="alive")))
        except StoppedShortError as error:
            stopped = error
        # A decoder that was given up (reader.py) still works in its thread, which cannot be ended.
        retires = any(thread.name not in OWN_THREADS for thread in threads())
        connection.send(Message(kind="done", finding=finding, stopped=stopped, retires=retires))
        if retires:
            os._exit(0)


def _find(try_one: Try, trial: Trial, alive: Alive) -> VideoCheck:
    try:
        return try_one(trial, alive)
    except StoppedShortError:
        raise
    except MemoryError:
        return VideoCheck(verdict="crash", message="out of memory")
    except BaseException as error:  # noqa: BLE001 - whatever a decoder does is a verdict
        return VideoCheck(verdict="crash", message=f"unexpected {type(error).__name__}: {error}")


def _keep_apart(log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)


def _end_with_parent() -> None:
    """However the command ended: a hanging decoder must not outlive it."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
