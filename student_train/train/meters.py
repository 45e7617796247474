"""What is counted while a network trains: losses, hits, time, over the clips of all processes."""

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.stepper import PartResult

EXPLODED: Final = 1000.0
"""A loss so many times the mean of its epoch will not come back."""
_SMALL_LOSS: Final = 0.1
"""Means below are taken for this much. A network that has learned all its clips has a mean of
nearly 0, and the cross entropy of one clip that it gets wrong is still a few tens at most."""
_ENOUGH_PARTS: Final = 20
"""Parts of steps that make a mean to compare with."""


class Figures:
    """Sums over the clips of this process, from which the means of an epoch or some steps are made.

    Args:
        before: Sums to go on from.
    """

    def __init__(self, before: Mapping[str, float]) -> None:
        self.start_from(before)

    def start_from(self, before: Mapping[str, float]) -> None:
        """Forget what was counted and go on from other sums."""
        self._sums: dict[str, float] = defaultdict(float, before)
        self._start = time.perf_counter() - self._sums.pop("seconds", 0.0)

    def waited(self, seconds: float) -> None:
        """Count seconds without data."""
        self._sums["waited"] += seconds

    def add(self, counts: Mapping[str, float]) -> None:
        """Count one part of a step, see `counts_of`."""
        for name, value in counts.items():
            self._sums[name] += value

    def mean(self, name: str) -> float:
        """Mean over the clips of this process so far."""
        return self._sums[name] / max(1.0, self._sums["clips"])

    def pace(self, processes: ProcessGroup) -> tuple[float, float]:
        """Clips per second of all processes, and the share of time without data.

        Both are told from this process alone, for the others have about as many clips.
        """
        seconds = max(1e-9, time.perf_counter() - self._start)
        return processes.world * self._sums["clips"] / seconds, self._sums["waited"] / seconds

    def explodes(self, loss: float) -> bool:
        """Whether a loss is far beyond those so far, of which there must be some."""
        enough = self._sums["parts"] >= _ENOUGH_PARTS
        return enough and loss > EXPLODED * max(_SMALL_LOSS, self.mean("loss"))

    def totals(self, processes: ProcessGroup) -> dict[str, float]:
        """Sums over all processes, seconds too, to go on from or to save."""
        own = {**self._sums, "seconds": time.perf_counter() - self._start}
        names = sorted({name for known in processes.all_of(sorted(own)) for name in known})
        sums = processes.totals([own.get(name, 0.0) for name in names])
        return dict(zip(names, sums, strict=True))

    def summary(self, processes: ProcessGroup) -> dict[str, Any]:
        """Means over the clips of all processes; empty where there were none."""
        totals = self.totals(processes)
        clips, seconds = totals.pop("clips", 0.0), totals.pop("seconds") / processes.world
        if not clips:
            return {}
        waited = totals.pop("waited", 0.0) / processes.world
        totals.pop("parts")
        return {
            **{name: value / clips for name, value in totals.items()},
            "clips": int(clips),
            "seconds": seconds,
            "clips_per_second": clips / seconds,
            "data_wait_share": waited / seconds,
        }


def counts_of(result: PartResult) -> dict[str, float]:
    """What one part of a step adds to the sums: losses and hits times its clips.

    All numbers leave the device at once, since a GPU is waited for every time.
    """
    output, labels = result
    numbers = [_hits(output.logits_BK, labels), output.loss, *output.parts.values()]
    hits, *losses = torch.stack([number.detach().float() for number in numbers]).tolist()
    clips = len(labels)
    sums = {
        name: clips * value for name, value in zip(("loss", *output.parts), losses, strict=True)
    }
    return {"parts": 1.0, "clips": float(clips), "train_top1": hits, **sums}


def _hits(logits_BK: Tensor, labels: Tensor) -> Tensor:
    """Number of clips whose best class is the label, or one of them where there are several."""
    best_B = logits_BK.argmax(1)
    if labels.ndim == 1:
        return (best_B == labels).sum()
    return labels.gather(1, best_B[:, None]).sum()
