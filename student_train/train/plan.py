"""What a training run will cost, worked out before anything runs."""

import os
from collections.abc import Sequence
from typing import Any, Final, Literal

from reskd.common.console import in_lines
from reskd.common.dataset.index import read_index
from reskd.common.distill.arrays import ArraySpec
from reskd.common.distill.targets import arrays_needed, plan_targets
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment, Role
from reskd.common.models.registry import complexity
from reskd.student_train.data.order import BLOCK_ROWS, cut_batches
from reskd.teacher_cache.format.plan import shown_bytes

BACKWARD_FACTOR = 3
"""A training step costs about three forward passes: one forward, two for the two gradients."""
LONG_ROW_BYTES: Final = 4e6
"""A disk takes longer to read such a row than to find it, so runs of them gain little."""


def plan_training(
    experiment: Experiment,
    role: Role,
    *,
    teacher: Literal["cached", "live"] = "cached",
) -> dict[str, Any]:
    """Counts and arithmetic of a run; reads nothing but the index.

    Args:
        experiment: Resolved experiment.
        role: Network to train.
        teacher: `live` adds what the teacher computes in the student's steps.

    Raises:
        ExperimentError: If the experiment does not train its teacher.
        DataError: If the index or the split is missing.
    """
    part = experiment.teacher if role == "teacher" else experiment.required_student()
    if part.training is None:
        raise ExperimentError("The experiment has no teacher.training: nothing to plan.")
    size = experiment.size_of(role)
    index = read_index(experiment.data.index)
    videos = len(index.split(experiment.data.train_split))
    cost = complexity(
        part.model,
        num_classes=len(index.classes),
        num_frames=experiment.clip.num_frames,
        size=size,
    )
    clips = videos * part.training.epochs
    beside = {} if teacher == "cached" else _teacher_beside(experiment, len(index.classes), clips)
    steps_per_epoch = len(cut_batches(range(videos), part.training.batch_size))
    return {
        "role": role,
        "videos": videos,
        "epochs": part.training.epochs,
        "clips": clips,
        "steps": part.training.epochs * steps_per_epoch,
        "size": size,
        "frames": experiment.clip.num_frames,
        "parameters": cost.parameters,
        "gmacs_per_clip": cost.gmacs,
        "gmacs": BACKWARD_FACTOR * cost.gmacs * clips,
        **beside,
        **_reading(experiment, role, teacher, num_classes=len(index.classes), videos=videos),
    }


def _reading(
    experiment: Experiment,
    role: Role,
    teacher: Literal["cached", "live"],
    *,
    num_classes: int,
    videos: int,
) -> dict[str, Any]:
    """What a student reads of its cache, and whether order `blocks` would make that faster."""
    if role == "teacher" or teacher == "live":
        return {}
    student = experiment.required_student()
    wanted = {"frames", *arrays_needed(student.losses)}
    planned = plan_targets(experiment, num_classes=num_classes).arrays
    arrays = [array for array in planned if array.name in wanted]
    epoch_bytes = videos * sum(array.row_bytes for array in arrays)
    memory_bytes = machine_memory_bytes()
    return {
        "order": student.training.order,
        "cache_bytes_per_epoch": epoch_bytes,
        "cache_bytes_of_all_epochs": epoch_bytes * experiment.views.count,
        "memory_bytes": memory_bytes,
        "blocks_would_be_faster": blocks_pay(
            arrays, epoch_bytes * experiment.views.count, memory_bytes=memory_bytes
        ),
    }


def machine_memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def blocks_pay(arrays: Sequence[ArraySpec], cache_bytes: int, *, memory_bytes: int) -> bool:
    """Whether runs of rows are read faster than single ones.

    They are where rows come from a disk in every epoch, as memory cannot hold those of all views,
    and are so short that the disk mostly looks for them. A disk without moving parts gains less.
    """
    longest = max((array.row_bytes for array in arrays), default=0)
    return cache_bytes > memory_bytes and longest < LONG_ROW_BYTES


def _teacher_beside(experiment: Experiment, num_classes: int, clips: int) -> dict[str, float]:
    """What a live teacher adds: one forward pass for every clip of every epoch."""
    gmacs = complexity(
        experiment.teacher.model,
        num_classes=num_classes,
        num_frames=experiment.clip.num_frames,
        size=experiment.views.size,
    ).gmacs
    return {"teacher_gmacs_per_clip": gmacs, "teacher_gmacs": gmacs * clips}


def plan_text(plan: dict[str, Any]) -> str:
    """The plan for a person."""
    lines = [
        "{role}: {videos} videos x {epochs} epochs = {clips} clips of {frames} frames, {size} "
        "px".format_map(plan),
        "{steps} steps, {parameters:,} parameters, {gmacs_per_clip:.3f} GMACs a clip forward, "
        "about {gmacs:,.0f} GMACs in all".format_map(plan),
    ]
    if plan.get("blocks_would_be_faster") and plan["order"] == "shuffled":
        lines.append(
            f"the {shown_bytes(plan['cache_bytes_of_all_epochs'])} that it reads of its cache do "
            f"not fit into this machine's {shown_bytes(plan['memory_bytes'])} of memory: if the "
            f"cache's disk is slow at random, training.order=blocks, which reads runs of "
            f"{BLOCK_ROWS} rows, is faster"
        )
    if "filling" in plan:
        lines.append(_filling_text(plan["filling"]))
    if "teacher_gmacs" not in plan:
        return in_lines(*lines)
    times = (plan["gmacs"] + plan["teacher_gmacs"]) / plan["gmacs"]
    lines.append(
        f"live teacher: {plan['teacher_gmacs_per_clip']:.3f} GMACs a clip more, "
        f"{plan['teacher_gmacs']:,.0f} GMACs in all: {times:.1f} times the student alone, "
        "and every clip is decoded in every epoch"
    )
    return in_lines(*lines)


def _filling_text(filling: dict[str, Any]) -> str:
    """What runs before the first step."""
    if not filling["units"]:
        return "the cache lacks no unit: the teacher does not run"
    return (
        "before the first step: the teacher on {teacher_clips} clips of {videos} videos, {units} "
        "units, {size}; `reskd cache plan` tells the hours"
    ).format(**filling, size=shown_bytes(filling["bytes"]))
