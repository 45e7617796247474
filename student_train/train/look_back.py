"""Whether the parts of steps that were taken went well, looked at when it costs no waiting."""

from collections.abc import Callable
from math import isfinite
from typing import NamedTuple

from torch import Tensor

from reskd.common.errors import StoppedShortError
from reskd.student_train.data.batches import Batch
from reskd.student_train.run.state import RunPosition
from reskd.student_train.train.guard import Guard, OnTheWay
from reskd.student_train.train.stepper import PartResult, described


class TakenPart(NamedTuple):
    """One part of a step, as long as it may turn out to have gone wrong."""

    batch: Batch
    place: RunPosition
    """Its epoch and step."""
    result: PartResult | None
    """None without clips."""
    ceiling: Tensor | float
    """What its loss must be below."""
    norm: Tensor | None
    """Of the gradient, with the last part of a step."""

    def problem(self) -> str:
        """What went wrong with it, for a person; waits for the device."""
        if self.result is not None:
            loss = self.result.output.loss.item()
            if not isfinite(loss):
                return f"The loss is {described(self.result.output)}"
            if loss >= self.ceiling:
                return f"The loss is {loss:.4g}, that of the epoch was far less"
        assert self.norm is not None, "nothing is wrong with this part"
        return f"The gradient has norm {self.norm.item():.4g}"


Refuse = Callable[[TakenPart, str], StoppedShortError]
"""Keeps what the part was computed from and says what is to be said of it."""


class LookBack:
    """Keeps the newest part, and looks at it when the device has gone on to the next one.

    Args:
        guard: What the device knows.
        refuse: Makes the error of a part that went wrong.
    """

    def __init__(self, guard: Guard, refuse: Refuse) -> None:
        self._guard, self._refuse = guard, refuse
        self._newest: tuple[TakenPart, OnTheWay] | None = None
        self.mean_loss: float | None = None
        """Of the epoch, as of the newest part that was looked at."""

    def at(self, part: TakenPart, mean_loss: Tensor | None) -> None:
        """Look at the part before this one; keep this one.

        Args:
            part: What the device was asked last.
            mean_loss: Of the epoch so far, on the device; None before any clip.

        Raises:
            StoppedShortError: If the one before went wrong.
        """
        numbers = [self._guard.well] if mean_loss is None else [self._guard.well, mean_loss]
        before, self._newest = self._newest, (part, OnTheWay(*numbers))
        self._read(before)

    def at_all(self) -> None:
        """Wait for the device and look at every part that was taken.

        Raises:
            StoppedShortError: If one went wrong.
        """
        newest, self._newest = self._newest, None
        self._read(newest)

    def _read(self, taken: tuple[TakenPart, OnTheWay] | None) -> None:
        if taken is None:
            return
        part, numbers = taken
        well, *mean_loss = numbers.read()
        if not well:
            raise self._refuse(part, part.problem())
        self.mean_loss = mean_loss[0] if mean_loss else None
