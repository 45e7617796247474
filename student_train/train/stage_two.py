"""`reskd benchmark stage-two`: reading, copying and the student's step, alone and all together.

| part | what | lane |
|---|---|---|
| read | rows of the cache into the ring's slots, checked | reader |
| copy | a batch from there to the device (GPUs only) | device |
| step | the student's step on a batch that lies on the device | device |

All together is the training loop itself, with its log, without validation.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch

from reskd.common.console import in_lines
from reskd.common.dataset.index import read_index
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment
from reskd.student_train.data.batches import Batch, Batches, StoredFrames
from reskd.student_train.data.cache import TrainingCache, open_cache
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.folder import RunFolder
from reskd.student_train.run.log import LOG_STEPS, read_events
from reskd.student_train.train.loop import Training, train
from reskd.student_train.train.recipe import Recipe, TargetSource
from reskd.student_train.train.run_training import TrainingData, batches_of, build_task
from reskd.student_train.train.stepper import Stepper

LEAST_STEPS: Final = 2 * LOG_STEPS + 1
"""The lines about the first LOG_STEPS steps, which warm up, and about the next; and a step more,
for the last one ends the epoch."""
WARM_STEPS: Final = 3
Step = Sequence[Batch]
"""The parts of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTwoSpeed:
    """Stage two on this machine, in seconds per step."""

    device: str
    clips: int
    """Of a step."""
    steps: int
    """Of the whole that were timed."""
    read: float
    copy: float
    """0 on a CPU."""
    step: float
    together: float
    wait_share: float
    """Part of the whole in which the loop waited for rows."""

    @property
    def bound(self) -> str:
        """Which lane is the slower one."""
        return "reader" if self.read > self.copy + self.step else "device"

    @property
    def ratio(self) -> float:
        """Speed of the whole over that of the slower lane."""
        return max(self.read, self.copy + self.step) / self.together

    @property
    def step_ratio(self) -> float:
        """Speed of the whole over that of the step on random tensors."""
        return self.step / self.together

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: seconds per step of the parts, steps and clips per second."""
        seconds = {"read": self.read, "copy": self.copy, "step": self.step}
        return {
            "device": self.device,
            "clips_per_step": self.clips,
            "steps": self.steps,
            "parts": {
                name: {"seconds_per_step": value, "clips_per_second": self.clips / value}
                for name, value in seconds.items()
                if value
            },
            "seconds_per_step": self.together,
            "clips_per_second": self.clips / self.together,
            "wait_share": self.wait_share,
            "bound": self.bound,
            "ratio": self.ratio,
            "step_ratio": self.step_ratio,
        }


@dataclass(frozen=True, slots=True)
class StageTwo:
    """A student about to learn from a cache; nothing is kept of what it learns."""

    recipe: Recipe
    data: TrainingData
    processes: ProcessGroup

    def batches(self) -> Batches:
        return batches_of(self.recipe, self.data, self.processes)

    def stepper(self) -> Stepper:
        return Stepper(
            build_task(self.recipe, self.data),
            self.recipe.training,
            self.processes,
            self.data.targets.live,
        )

    def first_step(self, device: torch.device | None = None) -> Step:
        """The parts of the first step: in memory of their own, or on a device."""
        parts = []
        with closing(self.batches().epoch(0)) as batches:
            for batch in batches:
                parts.append(on_device(batch, device or torch.device("cpu")))
                if batch.ends_step:
                    return parts
        raise DataError("the cache has no videos to learn from; run `reskd cache-teacher` again")


def student_of(
    experiment: Experiment, cache: Path, *, device: torch.device, steps: int
) -> StageTwo:
    """The experiment's student on so many steps of its cache, or as many as there are.

    Raises:
        CacheError: If the cache is not the experiment's.
        DataError: If it holds no frames.
    """
    student = experiment.required_student()
    index = read_index(experiment.data.index)
    opened = open_cache(
        experiment,
        index,
        cache,
        losses=student.losses,
        views_only=False,
        allow_incomplete=True,
    )
    if not opened.frames:
        raise DataError(
            f"{cache} holds no frames, so training decodes videos and its cost is theirs. Store "
            "targets.frames to learn without them."
        )
    recipe = Recipe(
        role="student",
        experiment=experiment,
        model=replace(student.model, pretrained=False),
        size=student.size,
        training=replace(student.training, epochs=1),
        losses=student.losses,
    )
    source = _SomeFrames(opened, steps * student.training.batch_size)
    data = TrainingData(index, source, TargetSource(opened))
    return StageTwo(recipe, data, ProcessGroup(device))


class _SomeFrames(StoredFrames):
    """The first videos of a cache."""

    def __init__(self, cache: TrainingCache, videos: int) -> None:
        super().__init__(cache)
        self.videos = self.videos[:videos]


def measure_stage_two(
    experiment: Experiment, cache: Path, *, device: torch.device, steps: int, seconds: float = 2.0
) -> StageTwoSpeed:
    """Measure the parts of a student's epoch from a cache, and all of it.

    Args:
        experiment: Resolved experiment.
        cache: Its cache, with frames.
        device: Where the student learns.
        steps: Of the whole; the first LOG_STEPS warm up, where there are more than twice as many.
        seconds: For each part.

    Raises:
        CacheError: If the cache is damaged or not the experiment's.
        DataError: If it holds no frames or too few videos.
    """
    student = student_of(experiment, cache, device=device, steps=max(steps, LEAST_STEPS))
    batches = student.batches()
    if batches.steps_per_epoch < LEAST_STEPS:
        raise DataError(
            f"{cache} has videos for {batches.steps_per_epoch} steps of "
            f"{student.recipe.training.batch_size} clips; the measurement takes {LEAST_STEPS}. "
            "Lower student.training.batch_size, or take a larger cache."
        )
    clock = StepClock(device, seconds)
    pinned = [_pinned(part, device) for part in student.first_step()]
    there = [on_device(part, device) for part in pinned]
    together, wait_share = _loop(student)
    return StageTwoSpeed(
        device=str(device),
        clips=student.recipe.training.batch_size,
        steps=batches.steps_per_epoch,
        read=_reading(batches, seconds),
        copy=clock.seconds(lambda: _copied(pinned, device)) if device.type == "cuda" else 0.0,
        step=clock.seconds(taking_steps(student.stepper(), there)),
        together=together,
        wait_share=wait_share,
    )


def taking_steps(stepper: Stepper, step: Step) -> Callable[[], object]:
    """Takes the same step again and again, with a learning rate that changes nothing much."""
    stepper.task.train()

    def take() -> None:
        for part in step:
            stepper.forward_backward(part)
        stepper.step(1e-6)

    return take


class StepClock:
    """Times what is done again and again on a device."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device, self._seconds = device, seconds

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds that it takes, without those of the first times."""
        for _ in range(WARM_STEPS):
            work()
        self._wait()
        rounds, start = 0, time.perf_counter()
        while not rounds or time.perf_counter() - start < self._seconds:
            work()
            rounds += 1
            if rounds % WARM_STEPS == 0:
                self._wait()
        self._wait()
        return (time.perf_counter() - start) / rounds

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch in memory of its own."""
    return replace(
        batch,
        frames_BT3HW=batch.frames_BT3HW.to(device, copy=True),
        labels=batch.labels.to(device, copy=True),
        targets={name: rows.to(device, copy=True) for name, rows in batch.targets.items()},
    )


def _pinned(batch: Batch, device: torch.device) -> Batch:
    if device.type != "cuda":
        return batch
    return replace(
        batch,
        frames_BT3HW=batch.frames_BT3HW.pin_memory(),
        labels=batch.labels.pin_memory(),
        targets={name: rows.pin_memory() for name, rows in batch.targets.items()},
    )


def _copied(step: Step, device: torch.device) -> None:
    for part in step:
        for tensor in (part.frames_BT3HW, part.labels, *part.targets.values()):
            tensor.to(device, non_blocking=True)


def _reading(batches: Batches, seconds: float) -> float:
    """Seconds per step of an epoch whose batches nobody uses."""
    start, steps = time.perf_counter(), 0
    for batch in _for(batches, seconds):
        steps += batch.ends_step
    return (time.perf_counter() - start) / max(1, steps)


def _for(batches: Batches, seconds: float) -> Iterator[Batch]:
    deadline = time.perf_counter() + seconds
    with closing(batches.epoch(0)) as epoch:
        for batch in epoch:
            yield batch
            if batch.ends_step and time.perf_counter() > deadline:
                return


def _loop(student: StageTwo) -> tuple[float, float]:
    """Seconds per step of the training loop, and the share of waiting, after it has warmed up."""
    with TemporaryDirectory(prefix="reskd-run-") as folder:
        training = Training(
            batches=student.batches(),
            spec=student.recipe.training,
            run=RunFolder(Path(folder), {}),
            processes=student.processes,
        )
        train(student.stepper(), training)
        lines = list(islice(read_events(Path(folder), "step"), 1, None))
    seconds = median(line["seconds"] / LOG_STEPS for line in lines)
    return seconds, median(line["data_wait_share"] for line in lines)


def stage_two_text(speed: StageTwoSpeed) -> str:
    """The measurement for a person."""
    parts = {"read": speed.read, "copy": speed.copy, "step": speed.step}
    rows = {name: value for name, value in parts.items() if value} | {"together": speed.together}
    return in_lines(
        *[
            f"stage two on {speed.device}, {speed.clips} clips per step",
            f"{'part':<10}{'steps/s':>10}{'clips/s':>10}{'ms per step':>13}",
            *(
                f"{name:<10}{1 / value:>10.2f}{speed.clips / value:>10.1f}{1e3 * value:>13.2f}"
                for name, value in rows.items()
            ),
            (
                f"bound by: {speed.bound}, {speed.ratio:.2f} of its speed reached, "
                f"{speed.step_ratio:.2f} of the step's alone; {speed.wait_share:.1%} waiting"
            ),
        ]
    )
