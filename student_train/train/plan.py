"""What a training run will cost, worked out before anything runs."""

from typing import Any, Literal

from reskd.common.dataset.index import read_index
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment, Role
from reskd.common.models.registry import complexity
from reskd.student_train.data.order import cut_batches

BACKWARD_FACTOR = 3
"""A training step costs about three forward passes: one forward, two for the two gradients."""


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
    }


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
    text = (
        "{role}: {videos} videos x {epochs} epochs = {clips} clips of {frames} frames, {size} px\n"
        "{steps} steps, {parameters:,} parameters, {gmacs_per_clip:.3f} GMACs a clip forward, "
        "about {gmacs:,.0f} GMACs in all"
    ).format_map(plan)
    if "teacher_gmacs" not in plan:
        return text
    times = (plan["gmacs"] + plan["teacher_gmacs"]) / plan["gmacs"]
    return (
        f"{text}\nlive teacher: {plan['teacher_gmacs_per_clip']:.3f} GMACs a clip more, "
        f"{plan['teacher_gmacs']:,.0f} GMACs in all: {times:.1f} times the student alone, "
        "and every clip is decoded in every epoch"
    )
