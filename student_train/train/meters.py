"""What is counted while a network trains: losses, hits, time, over the clips of all processes."""

import time
from collections import defaultdict
from collections.abc import Mapping
from math import inf
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from reskd.common.devices import widest_float
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.stepper import PartResult

EXPLODED: Final = 1000.0
"""A loss so many times the mean of its epoch will not come back."""
_SMALL_LOSS: Final = 0.1
"""Means below are taken for this much. A network that has learned all its clips has a mean of
nearly 0, and the cross entropy of one clip that it gets wrong is still a few tens at most."""
_ENOUGH_PARTS: Final = 20
"""Parts of steps that make a mean to compare with."""


class Counts(NamedTuple):
    """What one part of a step adds to the figures."""

    clips: int
    """B."""
    names: tuple[str, ...]
    """Of the means: `train_top1`, `loss` and its unweighted parts."""
    means: Tensor
    """Over the clips of the part, 1-d, on the device."""


class Figures:
    """Sums over the clips of this process, from which the means of an epoch or some steps are made.

    What comes out of the network is summed up on its device, which is not waited for before a sum
    is asked for.

    Args:
        before: Sums to go on from.
    """

    def __init__(self, before: Mapping[str, float]) -> None:
        self.start_from(before)

    def start_from(self, before: Mapping[str, float]) -> None:
        """Forget what was counted and go on from other sums."""
        self._sums: dict[str, float] = defaultdict(float, before)
        self._start = time.perf_counter() - self._sums.pop("seconds", 0.0)
        self._names: tuple[str, ...] = ()
        self._on_device: Tensor | None = None
        self._mean_loss: Tensor | None = None

    def waited(self, seconds: float) -> None:
        """Count seconds without data."""
        self._sums["waited"] += seconds

    def add(self, counts: Counts) -> None:
        """Count one part of a step, see `counts_of`."""
        self._sums["parts"] += 1
        self._sums["clips"] += counts.clips
        if self._on_device is None:
            self._names = counts.names
            self._on_device = self._sums_so_far(counts.means)
        self._on_device.add_(counts.means, alpha=counts.clips)
        self._mean_loss = None

    def mean_loss(self) -> Tensor | None:
        """Mean over the clips of this process so far, on the device; None without any."""
        if self._mean_loss is None and self._on_device is not None:
            self._mean_loss = self._on_device[self._names.index("loss")] / self._sums["clips"]
        return self._mean_loss

    def pace(self, processes: ProcessGroup) -> tuple[float, float]:
        """Clips per second of all processes, and the share of time without data.

        Both are told from this process alone, for the others have about as many clips.
        """
        seconds = max(1e-9, time.perf_counter() - self._start)
        return processes.world * self._sums["clips"] / seconds, self._sums["waited"] / seconds

    def ceiling(self) -> Tensor | float:
        """What the next loss must be below: far beyond those so far, of which there must be some.

        Returns:
            0-d on the device, or infinity.
        """
        mean = self.mean_loss()
        if mean is None or self._sums["parts"] < _ENOUGH_PARTS:
            return inf
        return EXPLODED * mean.clamp(min=_SMALL_LOSS)

    def totals(self, processes: ProcessGroup) -> dict[str, float]:
        """Sums over all processes, seconds too, to go on from or to save; waits for the device."""
        own = {**self._sums, "seconds": time.perf_counter() - self._start}
        if self._on_device is not None:
            own |= dict(zip(self._names, self._on_device.tolist(), strict=True))
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

    def _sums_so_far(self, means: Tensor) -> Tensor:
        """Zeros, or what a run goes on from, which is copied to the device once."""
        before = [self._sums.pop(name, 0.0) for name in self._names]
        return means.new_tensor(before) if any(before) else torch.zeros_like(means)


def counts_of(result: PartResult) -> Counts:
    """What one part of a step adds to the sums, left on the device."""
    output, labels = result
    right = _hits(output.logits_BK, labels).to(widest_float(labels.device)) / len(labels)
    # All take the widest of their types, the first one's.
    means = torch.stack([right, output.loss, *output.parts.values()])
    return Counts(len(labels), ("train_top1", "loss", *output.parts), means)


def _hits(logits_BK: Tensor, labels: Tensor) -> Tensor:
    """Number of clips whose best class is the label, or one of them where there are several."""
    best_B = logits_BK.argmax(1)
    if labels.ndim == 1:
        return (best_B == labels).sum()
    return labels.gather(1, best_B[:, None]).sum()
