"""How processes of one run wait for each other's part of long work, told through their store.

A collective would not do: it fails after half an hour, and while one waits in it no signal is
obeyed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from reskd.common.errors import PreemptedError, StoppedShortError

_DONE: Final = "done"
_STOPPED: Final = "stopped"
_FAILED: Final = "failed"
_SECONDS_BETWEEN_LOOKS: Final = 0.2


@dataclass(frozen=True, slots=True)
class PartsOfWork:
    """One piece of work, a part for each process."""

    store: Store
    name: str
    """Of this work alone."""
    rank: int
    world: int

    @contextmanager
    def ended_together(self) -> Iterator[None]:
        """Do this process's part, then wait for the others; tell them how it ended.

        Raises:
            StoppedShortError: If another process failed.
            PreemptedError: If another process was asked to stop.
            DistError: Of torch, if the store has gone with the first process.
        """
        try:
            yield
            self._tell(_DONE)
            self._wait()
        except Exception:
            with suppress(dist.DistError):  # it may have gone with the process that failed first
                self._tell(_FAILED)
            raise
        except BaseException:  # a signal
            with suppress(dist.DistError):
                self._tell(_STOPPED)
            raise

    def _wait(self) -> None:
        waited_for = set(range(self.world))
        while waited_for:
            ended = {rank: end for rank in waited_for if (end := self._end_of(rank))}
            for rank, end in ended.items():
                if end != _DONE:
                    raise _error(rank, end)
            waited_for -= ended.keys()
            if waited_for:
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _tell(self, end: str) -> None:
        self.store.set(self._key(self.rank), end)

    def _end_of(self, rank: int) -> str | None:
        key = self._key(rank)
        return self.store.get(key).decode() if self.store.check([key]) else None

    def _key(self, rank: int) -> str:
        return f"parts/{self.name}/{rank}"


def _error(rank: int, end: str) -> PreemptedError | StoppedShortError:
    if end == _STOPPED:
        return PreemptedError(
            f"Stopped by process {rank} of this run, which a signal asked to stop. What was "
            "finished is on disk; the same command goes on from there."
        )
    return StoppedShortError(
        f"Process {rank} of this run failed at its part of the work; see what it said. What was "
        "finished is kept, and the same command goes on from there."
    )
