"""Decoders that misbehave as their video's name says. A module of its own: children import it."""

import os
import signal
import time
from pathlib import Path
from threading import Event, Thread

from reskd.common.dataset.check.trial import Alive, Trial
from reskd.common.dataset.check.verdicts import VideoCheck

FOREVER = 600.0
poisoned = False


def misbehave(trial: Trial, alive: Alive) -> VideoCheck:
    """`crash_abort` aborts, `fine` does not; what was tried leaves a file TRIED/ID."""
    tried = trial.root / "tried"
    tried.mkdir(exist_ok=True)
    with (tried / trial.entry.id).open("a") as file:
        file.write(f"{os.getpid()}\n")
    action = ACTIONS.get(trial.entry.id.rpartition(".")[0])
    if poisoned:
        os.abort()
    if action is not None:
        action(alive)
    return VideoCheck(verdict="ok", frames=7)


def tries_of(root: Path, id_: str) -> list[int]:
    """Processes that tried a video, one after another."""
    file = root / "tried" / id_
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def hang(alive: Alive) -> None:
    alive()
    time.sleep(FOREVER)


def segfault(alive: Alive) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def abort(alive: Alive) -> None:
    os.write(2, b"terminate called after throwing an instance of 'dmlc::Error'\n")
    os.abort()


def leave(alive: Alive) -> None:
    os._exit(3)


def run_out_of_memory(alive: Alive) -> None:
    raise MemoryError


def be_killed(alive: Alive) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(alive: Alive) -> None:
    raise KeyError("no such stream")


def exit_politely(alive: Alive) -> None:
    raise SystemExit(0)


def close_everything(alive: Alive) -> None:
    os.closerange(3, 256)


def babble(alive: Alive) -> None:
    os.write(1, b"\x00\xff not a message\n" * 9999)
    print("frame= 7")  # noqa: T201 - decoders print


def leave_a_thread(alive: Alive) -> None:
    Thread(target=Event().wait, daemon=True).start()


def poison(alive: Alive) -> None:
    global poisoned
    poisoned = True


ACTIONS = {
    "hang": hang,
    "crash_segfault": segfault,
    "crash_abort": abort,
    "crash_exit": leave,
    "crash_memory": run_out_of_memory,
    "crash_killed": be_killed,
    "crash_error": fail,
    "crash_system_exit": exit_politely,
    "crash_closed": close_everything,
    "ok_babble": babble,
    "ok_thread": leave_a_thread,
    "ok_poison": poison,
}
