"""`reskd benchmark stage-one`: its parts alone, all of them together, and what bounds it."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from reskd.common.console import in_lines
from reskd.common.dataset.index import VideoIndex
from reskd.common.experiment import Experiment
from reskd.common.signals import preemptible
from reskd.teacher_cache.estimate.measure_speed import UNITS_PER_RUN
from reskd.teacher_cache.estimate.parts import StagePart, measure_parts
from reskd.teacher_cache.estimate.probe import Preprocess, prepared_probe
from reskd.teacher_cache.format.plan import CachePlan

BENCHMARK_BYTES: Final = 8_000_000_000
"""Of the temporary cache: some seconds of a fast GPU."""
CORES: Final = "cores"
"""What all lanes share where there is no other device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOneSpeed:
    """Stage one on this machine."""

    device: str
    threads: int
    batch: int
    parts: tuple[StagePart, ...]
    clips: int
    """Clips from which the whole was timed."""
    seconds: float
    """That they took."""
    teacher_seconds: float
    """Of them those in which the device ran the teacher, by its own clock."""
    cpu_seconds: float
    """Of this process, for these and for the clips that warmed it up."""
    cpu_clips: int
    """How many clips these were."""

    @property
    def clips_per_second(self) -> float:
        """All parts together."""
        return self.clips / self.seconds

    @property
    def bound(self) -> str:
        """The slowest lane."""
        lanes = lanes_of(self.parts)
        return max(lanes, key=lambda lane: lanes[lane])

    @property
    def ratio(self) -> float:
        """Share of the bound's speed that the whole reaches."""
        return self.clips_per_second * lanes_of(self.parts)[self.bound]

    @property
    def device_busy(self) -> float:
        """Share of the time in which the device ran the teacher, or encoded, by what that takes."""
        encode = sum(part.seconds_per_clip for part in self.parts if part.name == "encode")
        return (self.teacher_seconds + self.clips * encode) / self.seconds

    @property
    def teacher_ratio(self) -> float | None:
        """Share of the teacher's own speed; None if nothing asks for a teacher."""
        alone = [part.seconds_per_clip for part in self.parts if part.name == "teacher"]
        return self.clips_per_second * alone[0] if alone else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON.

        parts: of each `seconds_per_clip`, `clips_per_second`, `cpu_seconds_per_clip` and `lane`.
        lanes: seconds per clip. bound: the slowest of them. ratio: the whole over the bound.
        teacher_ratio: the whole over the teacher alone. device_busy: share of the time.
        """
        return {
            "device": self.device,
            "threads": self.threads,
            "batch": self.batch,
            "parts": {
                part.name: {
                    "lane": part.lane,
                    "seconds_per_clip": part.seconds_per_clip,
                    "clips_per_second": 1 / part.seconds_per_clip,
                    "cpu_seconds_per_clip": part.cpu_seconds_per_clip,
                }
                for part in self.parts
            },
            "lanes": lanes_of(self.parts),
            "clips": self.clips,
            "clips_per_second": self.clips_per_second,
            "cpu_seconds_per_clip": self.cpu_seconds / self.cpu_clips,
            "bound": self.bound,
            "ratio": self.ratio,
            "teacher_ratio": self.teacher_ratio,
            "device_busy": self.device_busy,
        }


def lanes_of(parts: Sequence[StagePart]) -> dict[str, float]:
    """Seconds per clip of each lane, if nothing else held it up.

    The cores are a lane too: they do the processor time of all parts.
    """
    lanes: dict[str, float] = {}
    for part in parts:
        lanes[part.lane] = lanes.get(part.lane, 0.0) + part.seconds_per_clip
    cpu = sum(part.cpu_seconds_per_clip for part in parts)
    return {**lanes, CORES: cpu / (os.cpu_count() or 1)}


def measure_stage_one(
    experiment: Experiment,
    index: VideoIndex,
    plan: CachePlan,
    *,
    parent: Path,
    device: torch.device,
    threads: int,
    preprocess: Preprocess = "cpu",
    seconds: float = 20.0,
) -> StageOneSpeed:
    """Measure the parts, then the engine on a temporary cache.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        plan: Of its cache.
        parent: Existing folder on the disk of the cache; nothing is left in it.
        device: Where the teacher runs.
        threads: Threads that decode.
        preprocess: Who crops and resizes.
        seconds: In all, half of it for the parts.

    Raises:
        CannotMeasureError: If no video can be read, or nothing can be written to the folder.
        DataError: If the teacher's checkpoint is missing or does not fit.
    """
    with (
        preemptible(),
        prepared_probe(
            experiment,
            index,
            plan,
            parent=parent,
            device=device,
            threads=threads,
            preprocess=preprocess,
            most_bytes=BENCHMARK_BYTES,
        ) as probe,
    ):
        batch = probe.batch
        parts = tuple(measure_parts(probe, batch=batch, seconds=seconds / 2))
        slowest = max(lanes_of(parts).values())
        unit_seconds = seconds / 2 / UNITS_PER_RUN
        cpu = time.process_time()
        run = probe.run(
            probe.arrays,
            probe.planned_views,
            seconds=seconds / 2,
            unit_videos=unit_seconds / (probe.planned_views * slowest),
        )
        return StageOneSpeed(
            device=str(device),
            threads=threads,
            batch=batch,
            parts=parts,
            clips=run.steady.videos * probe.planned_views,
            seconds=run.steady.seconds,
            teacher_seconds=run.steady.forward_seconds,
            cpu_seconds=time.process_time() - cpu,
            cpu_clips=run.whole.videos * probe.planned_views,
        )


def stage_one_text(speed: StageOneSpeed) -> str:
    """The measurement for a person."""
    lines = [
        (
            f"stage one on {speed.device}, {speed.threads} threads that decode, batches of "
            f"{speed.batch} clips"
        ),
        f"{'part':<16}{'lane':<11}{'clips/s':>10}{'ms per clip':>13}{'cpu ms':>9}",
    ]
    lines += [
        f"{part.name:<16}{part.lane:<11}{1 / part.seconds_per_clip:>10.1f}"
        f"{1e3 * part.seconds_per_clip:>13.2f}{1e3 * part.cpu_seconds_per_clip:>9.2f}"
        for part in speed.parts
    ]
    cpu = 1e3 * speed.cpu_seconds / speed.cpu_clips
    lines += [
        (
            f"{'together':<27}{speed.clips_per_second:>10.1f}"
            f"{1e3 / speed.clips_per_second:>13.2f}{cpu:>9.2f}"
        ),
        (
            f"bound by: {speed.bound}, {speed.ratio:.2f} of its speed reached; device busy "
            f"{speed.device_busy:.2f}"
        ),
    ]
    return in_lines(*lines)
