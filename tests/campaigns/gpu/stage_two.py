"""Rows of stage two: the student's step, alone, from a cache and beside its teacher."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from reskd.common.dataset.index import read_index
from reskd.common.distill.targets import arrays_needed
from reskd.common.experiment import Experiment
from reskd.student_train.data.batches import Batch, Batches
from reskd.student_train.run.folder import RunFolder
from reskd.student_train.run.log import LOG_STEPS
from reskd.student_train.train.live_teacher import LiveTeacher
from reskd.student_train.train.loop import Training, train
from reskd.student_train.train.stage_two import (
    StageTwo,
    StepClock,
    measure_stage_two,
    student_of,
    taking_steps,
)
from reskd.student_train.train.stepper import Stepper
from reskd.teacher_cache.noise import write_noise_cache
from tests.campaigns.gpu.recipes import Network, Scale, experiment_of
from tests.campaigns.gpu.rows import Bench, Figures
from tests.campaigns.gpu.subjects import teacher_of

WATCHED = (5, LOG_STEPS - 5)
"""Steps of which waits are counted: after the first ones, before the first line of the log."""


@cache
def _cached(network: Network, scale: Scale, folder: Path) -> tuple[Experiment, Path]:
    """The recipe with one view, and its cache of noise."""
    own = folder / f"student-{network}-{os.getpid()}"
    experiment = experiment_of(
        network,
        scale,
        own,
        [
            "views.count=1",
            "student.training.precision=bfloat16",
            "student.training.accumulation=1",
            f"student.training.batch_size={scale.step_clips}",
        ],
        videos=scale.step_clips * scale.steps,
    )
    write_noise_cache(experiment, own / "cache")
    return experiment, own / "cache"


def _with(experiment: Experiment, **training: Any) -> Experiment:
    """The same with other settings of its student's training; BatchNorm is plain by default."""
    student = experiment.required_student()
    settings = {"batchnorm_group": None, **training}
    return replace(
        experiment, student=replace(student, training=replace(student.training, **settings))
    )


def _student(bench: Bench, **training: Any) -> StageTwo:
    experiment, cache_folder = _cached("R152", bench.scale, bench.folder)
    return student_of(
        _with(experiment, **training), cache_folder, device=bench.device, steps=bench.scale.steps
    )


def _step_seconds(bench: Bench, student: StageTwo) -> float:
    step = student.first_step(bench.device)
    clock = StepClock(bench.device, bench.scale.seconds)
    return clock.seconds(taking_steps(student.stepper(), step))


def student_step(bench: Bench) -> Figures:
    """`reskd benchmark stage-two`: reading, copying, the step, and the training loop."""
    experiment, cache_folder = _cached("R152", bench.scale, bench.folder)
    return measure_stage_two(
        _with(experiment),
        cache_folder,
        device=bench.device,
        steps=bench.scale.steps,
        seconds=bench.scale.seconds,
    ).as_dict()


def live_step(bench: Bench) -> Figures:
    """A step with the teacher in it, against the cached one and what arithmetic allows."""
    student = _student(bench)
    experiment = student.recipe.experiment
    precision = experiment.teacher.precision
    live = LiveTeacher(
        experiment,
        read_index(experiment.data.index),
        names=arrays_needed(student.recipe.losses),
        device=bench.device,
    )
    stepper = Stepper(student.stepper().task, student.recipe.training, student.processes, live)
    [batch] = student.first_step(bench.device)
    size, frames = experiment.views.size, experiment.clip.num_frames
    clips = torch.randint(256, (len(batch), frames, 3, size, size), dtype=torch.uint8)
    if bench.on_card:
        clips = clips.pin_memory()
    clock = StepClock(bench.device, bench.scale.seconds)
    both = clock.seconds(taking_steps(stepper, [replace(batch, clips_BT3HW=clips)]))
    own = _step_seconds(bench, student)
    teacher, there = teacher_of(bench, "R152", precision), clips.to(bench.device)
    asked = clock.seconds(lambda: teacher.predict(there))
    cached = bench.figure("student step", "seconds_per_step")
    possible = 1 + asked / own
    return {
        "teacher_precision": precision,
        "live_clips_per_second": len(batch) / both,
        "student_clips_per_second": len(batch) / own,
        "teacher_clips_per_second": len(batch) / asked,
        "cached_over_live": both / cached,
        "possible": possible,
        "share_of_possible": both / cached / possible,
    }


class _Watched(Batches):
    """Batches between two of which torch is told to warn of every wait for the device."""

    def epoch(self, epoch: int, *, first_step: int = 0) -> Generator[Batch, None, None]:
        with closing(super().epoch(epoch, first_step=first_step)) as batches:
            for number, batch in enumerate(islice(batches, WATCHED[1] + 1)):
                if number == WATCHED[0]:
                    torch.cuda.set_sync_debug_mode("warn")
                if number == WATCHED[1]:
                    torch.cuda.set_sync_debug_mode("default")
                    return
                yield batch


def waits_in_steps(bench: Bench) -> Figures:
    """How often the training loop waits for the device between two lines of the log."""
    student = _student(bench)
    batches = student.batches()
    batches.__class__ = _Watched
    with TemporaryDirectory(dir=bench.folder) as folder:
        training = Training(
            batches=batches,
            spec=student.recipe.training,
            run=RunFolder(Path(folder), {}),
            processes=student.processes,
        )
        places = waits(lambda: train(student.stepper(), training))
    steps = WATCHED[1] - WATCHED[0]
    return {"steps": steps, "waits_per_step": sum(places.values()) / steps, "where": places}


def waits(work: Callable[[], object]) -> dict[str, int]:
    """Where some work has waited for the device while torch was told to warn of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "called a synchronizing" in str(one.message)]
    return dict(Counter(f"{Path(one.filename).name}:{one.lineno}" for one in found).most_common())


def ghost_step(bench: Bench) -> Figures:
    """A step with BatchNorm over groups of 8 clips, over one with BatchNorm over all."""
    group = min(8, bench.scale.step_clips // 2)
    ghost = _step_seconds(bench, _student(bench, batchnorm_group=group))
    plain = _step_seconds(bench, _student(bench))
    return {
        "group": group,
        "ghost_ms": 1e3 * ghost,
        "plain_ms": 1e3 * plain,
        "ratio": ghost / plain,
    }


def graphed_step(bench: Bench) -> Figures:
    """CUDA graphs against eager, with plain BatchNorm and with groups of 8 clips.

    `difference` is that of the weights after some steps, over their size.
    """
    group = min(8, bench.scale.step_clips // 2)
    figures: Figures = {}
    for name, size in (("plain", None), ("ghost", group)):
        seconds, weights = {}, {}
        for graphed in (False, True):
            student = _student(bench, batchnorm_group=size, cuda_graphs=graphed)
            step = student.first_step(bench.device)
            stepper = student.stepper()
            take = taking_steps(stepper, step)
            for _ in range(4):
                take()
            states = stepper.task.state_dict().values()
            weights[graphed] = torch.cat([state.flatten().double() for state in states])
            seconds[graphed] = StepClock(bench.device, bench.scale.seconds).seconds(take)
        difference = (weights[True] - weights[False]).norm() / weights[False].norm()
        figures |= {
            f"{name}_eager_ms": 1e3 * seconds[False],
            f"{name}_graphed_ms": 1e3 * seconds[True],
            f"{name}_speedup": seconds[False] / seconds[True],
            f"{name}_difference": difference.item(),
        }
    ratio = figures["ghost_graphed_ms"] / figures["plain_graphed_ms"]
    return {**figures, "graphed_ghost_ratio": ratio}


def graphed_student(bench: Bench) -> Figures:
    """`reskd benchmark stage-two` with CUDA graphs."""
    experiment, cache_folder = _cached("R152", bench.scale, bench.folder)
    return measure_stage_two(
        _with(experiment, cuda_graphs=True),
        cache_folder,
        device=bench.device,
        steps=bench.scale.steps,
        seconds=bench.scale.seconds,
    ).as_dict()


def compiled_step(bench: Bench) -> Figures:
    """torch.compile against eager, for a small student."""
    experiment, cache_folder = _cached("R152", bench.scale, bench.folder)
    small = experiment.required_student()
    if bench.scale.name == "full":
        small = replace(small, model=replace(small.model, backbone="resnet18", backbone_args={}))
    experiment = replace(experiment, student=small)
    seconds = {}
    for compiled in (False, True):
        changed = _with(experiment, compile=compiled)
        student = student_of(changed, cache_folder, device=bench.device, steps=bench.scale.steps)
        seconds[compiled] = _step_seconds(bench, student)
    return {
        "backbone": small.model.backbone,
        "eager_ms": 1e3 * seconds[False],
        "compiled_ms": 1e3 * seconds[True],
        "speedup": seconds[False] / seconds[True],
    }
