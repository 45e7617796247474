"""From an experiment to a trained network: what train-teacher and train-student do."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.distill.targets import ARRAYS_OF_LOSS, arrays_needed
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment, LossSpec
from reskd.student_train.data.batches import FrameSource, StoredFrames
from reskd.student_train.data.cache import open_cache
from reskd.student_train.data.decoded_frames import DecodedFrames
from reskd.student_train.data.more_caches import open_more
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.train.fill_cache import check_fillable, fill_cache
from reskd.student_train.train.live_teacher import LiveTeacher
from reskd.student_train.train.recipe import Recipe, TargetSource
from reskd.student_train.train.run_training import TrainingData, run_training


def train_teacher(
    experiment: Experiment,
    run: Path,
    *,
    processes: ProcessGroup,
    max_bad: float,
    fresh: bool,
    replace: str | None = None,
    resume_from: int | None = None,
    validate: bool,
    keeping: ClipKeeping | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the experiment's teacher on big frames, from labels alone.

    Args:
        experiment: Resolved experiment.
        run: Folder of the run.
        processes: This process and those started with it.
        max_bad: Share of unreadable videos at which training stops.
        fresh: Forget an earlier run of this recipe in the same folder.
        replace: Name of that folder, to forget whatever run it holds.
        resume_from: Steps done in the saved state to go on from; None takes the newest one.
        validate: Measure while training and at its end, where the index has data.val_split.
        keeping: Where the clips for that are kept; None keeps none.
        command: What was typed, for the run's log; empty where Python code calls.

    Returns:
        Facts about the finished run, for JSON.

    Raises:
        ExperimentError: If the experiment does not say how.
        DataError: If the index or the split is missing.
    """
    if experiment.teacher.training is None:
        raise ExperimentError(
            "The experiment has no teacher.training: its teacher comes from elsewhere. Add "
            "teacher.training.epochs and so on to train one here."
        )
    recipe = Recipe(
        role="teacher",
        experiment=experiment,
        model=experiment.teacher.model,
        size=experiment.views.size,
        training=experiment.teacher.training,
        losses=_without_teacher(LossSpec(), cross_entropy=1.0),
    )
    index = read_index(experiment.data.index)
    targets = TargetSource()
    source = _decoded_frames(recipe, index, targets, max_bad, processes)
    data = TrainingData(index, source, targets)
    return run_training(
        recipe,
        data,
        run,
        processes=processes,
        fresh=fresh,
        replace=replace,
        resume_from=resume_from,
        validate=validate,
        keeping=keeping,
        command=command,
    )


def train_student(
    experiment: Experiment,
    run: Path,
    *,
    cache: Path | None,
    more_caches: Sequence[Path] = (),
    teacher: Literal["cached", "live"],
    distill: bool,
    processes: ProcessGroup,
    max_bad: float,
    fresh: bool,
    replace: str | None = None,
    resume_from: int | None = None,
    allow_incomplete: bool,
    on_missing: Literal["refuse", "compute"] = "refuse",
    validate: bool,
    keeping: ClipKeeping | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the experiment's student from a cache, beside its teacher, or from labels alone.

    Args:
        experiment: Resolved experiment.
        run: Folder of the run.
        cache: Store to learn from. Without distillation it only provides the frames, or, when it is
            None, fresh views are decoded in every epoch. With a live teacher it only provides the
            views, which otherwise are drawn as a cache of views.count views would hold them.
        more_caches: Further teachers' stores of the same views, for student.more_losses.
        teacher: `live` computes the teacher's targets in every step instead of reading them.
        distill: False keeps the cross entropy alone.
        processes: This process and those started with it.
        max_bad: Share of unreadable videos at which training stops.
        fresh: Forget an earlier run of this recipe in the same folder.
        replace: Name of that folder, to forget whatever run it holds.
        resume_from: Steps done in the saved state to go on from; None takes the newest one.
        allow_incomplete: Train on the finished units of an unfinished cache.
        on_missing: `compute` first runs the teacher for all that the cache lacks, each process for
            a part; the cache is made where there is none.
        validate: Measure while training and at its end, where the index has data.val_split.
        keeping: Where the clips for that are kept; None keeps none.
        command: What was typed, for the run's log; empty where Python code calls.

    Returns:
        Facts about the finished run, for JSON.

    Raises:
        CacheError: If the cache is damaged or another experiment's.
        ExperimentError: If teacher, cache and losses do not fit each other.
        StoppedShortError: If the cache is incomplete, or cannot be filled.
        DataError: If the index is missing, or the teacher that is to run.
        PreemptedError: If a signal asked to stop.
    """
    student = experiment.required_student()
    losses = student.losses
    if not distill:
        losses = _without_teacher(losses, cross_entropy=losses.cross_entropy or 1.0)
    _check_teacher_is_of_use(losses, cache, teacher)
    more_losses = student.more_losses if distill else ()
    _check_more(
        more_caches, more_losses, cache, teacher=teacher, distill=distill, on_missing=on_missing
    )
    if on_missing == "compute":
        filled = check_fillable(cache, teacher=teacher, allow_incomplete=allow_incomplete)
        fill_cache(experiment, filled, processes, max_bad=max_bad)
    recipe = Recipe(
        role="student",
        experiment=experiment,
        model=student.model,
        size=student.size,
        training=student.training,
        losses=losses,
        more_losses=more_losses,
    )
    index = read_index(experiment.data.index)
    live = None
    if teacher == "live":
        live = LiveTeacher(experiment, index, names=arrays_needed(losses), device=processes.device)
    opened = None
    if cache is not None:
        opened = open_cache(
            experiment,
            index,
            cache,
            losses=losses,
            views_only=live is not None,
            allow_incomplete=allow_incomplete,
        )
    if opened is not None and live is None:
        more = open_more(
            experiment,
            index,
            opened,
            more_caches,
            more_losses,
            allow_incomplete=allow_incomplete,
        )
        opened = dataclasses.replace(opened, more=more)
    targets = TargetSource(opened, live)
    source: FrameSource
    if opened is not None and opened.frames:
        source = StoredFrames(opened)
    else:
        source = _decoded_frames(recipe, index, targets, max_bad, processes)
    data = TrainingData(index, source, targets)
    return run_training(
        recipe,
        data,
        run,
        processes=processes,
        fresh=fresh,
        replace=replace,
        resume_from=resume_from,
        validate=validate,
        keeping=keeping,
        command=command,
    )


def _without_teacher(losses: LossSpec, *, cross_entropy: float) -> LossSpec:
    """The same without the terms that compare with a teacher."""
    off: dict[str, Any] = {**dict.fromkeys(ARRAYS_OF_LOSS, 0.0), "standardise_logits": False}
    off["own"] = {name: own for name, own in losses.own.items() if not own.targets}
    return dataclasses.replace(losses, cross_entropy=cross_entropy, **off)


def _check_teacher_is_of_use(
    losses: LossSpec, cache: Path | None, teacher: Literal["cached", "live"]
) -> None:
    needed = arrays_needed(losses)
    if needed and cache is None and teacher == "cached":
        raise ExperimentError(
            "The student's losses need the teacher's targets: name their cache with --cache, "
            "compute them in every step with --teacher live, or train from labels alone with "
            "--no-distill."
        )
    if not needed and teacher == "live":
        raise ExperimentError(
            "--teacher live would run the teacher for nothing: no loss compares with it. Give one "
            f"of student.losses.{', '.join(ARRAYS_OF_LOSS)} a weight, or leave the option out."
        )


def _check_more(
    more_caches: Sequence[Path],
    more_losses: Sequence[LossSpec],
    cache: Path | None,
    *,
    teacher: Literal["cached", "live"],
    distill: bool,
    on_missing: Literal["refuse", "compute"],
) -> None:
    options = {
        "--teacher live": teacher == "live",
        "--no-distill": not distill,
        "--on-missing compute": on_missing == "compute",
    }
    if more_caches and (given := [name for name, value in options.items() if value]):
        raise ExperimentError(
            f"{given[0]} is for one cache, but {len(more_caches) + 1} are named. Name the first "
            "alone, or leave the option out."
        )
    if more_losses and (teacher == "live" or cache is None):
        raise ExperimentError(
            "student.more_losses asks for further teachers, each from a --cache of its own after "
            "the first one's. Name them, or set student.more_losses: []."
        )


def _decoded_frames(
    recipe: Recipe,
    index: VideoIndex,
    targets: TargetSource,
    max_bad: float,
    processes: ProcessGroup,
) -> DecodedFrames:
    return DecodedFrames(
        recipe.experiment,
        index,
        targets.entries(recipe, index),
        size=recipe.size,
        replay=targets.cache,
        num_views=targets.num_views(recipe),
        keep_clips=targets.live is not None,
        workers=recipe.training.workers,
        memory_bytes=int(recipe.training.memory_gb * 1e9),
        pinned=processes.device.type == "cuda",
        max_bad=max_bad,
    )
