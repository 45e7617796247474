"""Where workers live, as the driver sees it: places that may have one, and a line to each that has.

Sites differ in how a process comes to be and in what carries its messages, in nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from reskd.teacher_cache.fill.workers.worker import Question


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What one worker keeps busy."""

    device: torch.device
    number: int
    """Among the places of its machine."""
    machine: str = ""
    """Empty is this one."""

    def __str__(self) -> str:
        return f"{self.device} of {self.machine}" if self.machine else str(self.device)


class Hand(Protocol):
    """A worker, as the driver holds it."""

    def answer(self, content: object) -> None:
        """Answer its question; if it is dead, that is heard soon."""

    def let_go(self) -> None:
        """Hear and say no more: it commits the unit that is being written, and ends."""

    def ended(self) -> str:
        """Wait until it has ended, for a minute at most and then by force; says how it did."""


class Site(Protocol):
    """Where workers are started, and heard."""

    def places(self) -> Sequence[Place]:
        """Those there are now."""

    def start(self, place: Place) -> Hand:
        """Start a worker."""

    def hear(self) -> Iterator[tuple[Hand, Question | Literal["dead"], Any]]:
        """Wait for a while until workers say something, and tell what."""
