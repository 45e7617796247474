"""What a teacher's precision may add to a row, and in which one this device runs it again.

A device computes rows in the precision of the cache where it can do that fast. A CPU cannot: it has
no TF32, and most compute with half numbers several times slower than with whole ones. There the
teacher runs in float32, and what its precision adds is measured, as on any other device: the
relative L2 difference from float32, array by array (common/distill/differences.py). Of the arrays
that no cache is made of if it is more than LARGEST_DIFFERENCE it is never taken to be more.
"""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite

import torch
from torch import Tensor

from reskd.common.console import say
from reskd.common.distill.arrays import TargetPlan
from reskd.common.distill.differences import (
    JUDGED,
    LARGEST_DIFFERENCE,
    live_differences,
    output_pairs,
)
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Precision


def replay_precision(cached: Precision, device: torch.device) -> Precision:
    """The precision in which rows are computed again."""
    return cached if device.type == "cuda" else "float32"


class PrecisionMeasure:
    """How far the teacher of a cache is from itself in float32.

    Args:
        plan: All arrays of the cache.
        cached: Its precision.
        teacher_in: Makes its teacher in a precision.
        device: Where that runs.
    """

    def __init__(
        self,
        plan: TargetPlan,
        cached: Precision,
        teacher_in: Callable[[Precision], Teacher],
        device: torch.device,
    ) -> None:
        self._plan, self._cached = plan, cached
        self._teachers: tuple[Teacher, Teacher] | None = None
        if cached == "float32":
            return
        # float16 has the mantissa of TF32 and rounds more often, so it stands in for it.
        measured = "float16" if cached == "tf32" and device.type != "cuda" else cached
        self._teachers = teacher_in("float32"), teacher_in(measured)
        if device.type != "cuda":
            say(f"the cache is of {cached}; on a {device.type} its teacher is asked in float32")

    def by_clip(self, clips_BT3HW: Tensor) -> list[dict[str, float]]:
        """Of each clip the difference by array; without entries where there can be none.

        Args:
            clips_BT3HW: uint8 clips that the teacher may see together; there may be none.
        """
        if self._cached == "float32" or not len(clips_BT3HW):
            return [{} for _ in clips_BT3HW]
        pairs = []
        try:
            if self._teachers is not None:
                pairs = output_pairs(*self._teachers, clips_BT3HW)
        except ExperimentError as error:
            say(f"{error} Here {LARGEST_DIFFERENCE:.0e} is taken for what {self._cached} adds.")
            self._teachers = None
        if not pairs:
            most = {array.name: LARGEST_DIFFERENCE for array in self._plan.arrays}
            return [most for _ in clips_BT3HW]
        return [
            {name: _allowed(name, value) for name, value in found.items()}
            for found in (live_differences(self._plan, [pair]) for pair in pairs)
        ]


def _allowed(name: str, measured: float) -> float:
    """Never more than the cache can have been made with."""
    if name in JUDGED or not isfinite(measured):
        return min(measured, LARGEST_DIFFERENCE)
    return measured


def largest(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The largest difference of each array."""
    most: dict[str, float] = {}
    for one in found:
        for name, value in one.items():
            most[name] = max(value, most.get(name, 0.0))
    return most
