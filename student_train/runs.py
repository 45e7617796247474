"""From an experiment to a trained network: what train-teacher and train-student do."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from common.checkpoints import save_checkpoint, start_from
from common.config import experiment_tree
from common.distill.label_loss import class_weights
from common.distill.targets import ARRAYS_OF_LOSS
from common.errors import ExperimentError
from common.models.registry import build_model, complexity
from common.rng import derived_seed
from common.specs import Experiment, LossSpec
from common.video.index import VideoIndex, read_index
from student_train.batches import Batches, FrameSource, StoredFrames
from student_train.decoded_frames import DecodedFrames
from student_train.labels import Labels
from student_train.live import LiveTeacher
from student_train.loop import Training, train
from student_train.open_cache import holds_frames, open_cache
from student_train.ranks import Ranks
from student_train.recipe import Answers, Recipe, arrays_needed, recipe_digest
from student_train.run_folder import RunFolder
from student_train.run_log import read_events
from student_train.stepper import Stepper
from student_train.task import Task


def train_teacher(
    experiment: Experiment, run: Path, *, ranks: Ranks, max_bad: float, fresh: bool
) -> dict[str, Any]:
    """Train the experiment's teacher on big frames, from labels alone.

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
    answers = Answers()
    source = _decoded_frames(recipe, index, answers, max_bad)
    return _train(recipe, index, source, answers, run, ranks=ranks, fresh=fresh)


def train_student(
    experiment: Experiment,
    run: Path,
    *,
    cache: Path | None,
    teacher: Literal["cached", "live"],
    distill: bool,
    ranks: Ranks,
    max_bad: float,
    fresh: bool,
    allow_incomplete: bool,
) -> dict[str, Any]:
    """Train the experiment's student from a cache, beside its teacher, or from labels alone.

    Args:
        experiment: Resolved experiment.
        run: Folder of the run.
        cache: Store to learn from. Without distillation it only provides the frames, or, when it is
            None, fresh views are decoded in every epoch. With a live teacher it only provides the
            views, which otherwise are drawn as a cache of views.count views would hold them.
        teacher: `live` computes the teacher's answers in every step instead of reading them.
        distill: False keeps the cross entropy alone.
        ranks: This process and, under torchrun, the others.
        max_bad: Share of unreadable videos at which training stops.
        fresh: Forget an earlier run in the same folder.
        allow_incomplete: Train on the finished units of an unfinished cache.

    Returns:
        Facts about the finished run, for JSON.

    Raises:
        CacheError: If the cache is damaged or another experiment's.
        ExperimentError: If teacher, cache and losses do not fit each other.
        StoppedShortError: If the cache is incomplete.
        DataError: If the index is missing, or the live teacher.
    """
    student = experiment.required_student()
    losses = student.losses
    if not distill:
        losses = _without_teacher(losses, cross_entropy=losses.cross_entropy or 1.0)
    _check_teacher_is_of_use(losses, cache, teacher)
    recipe = Recipe(
        role="student",
        experiment=experiment,
        model=student.model,
        size=student.size,
        training=student.training,
        losses=losses,
    )
    index = read_index(experiment.data.index)
    live = None
    if teacher == "live":
        live = LiveTeacher(experiment, index, names=arrays_needed(losses), device=ranks.device)
    reader = None
    if cache is not None:
        reader = open_cache(
            experiment,
            index,
            cache,
            views_only=live is not None,
            allow_incomplete=allow_incomplete,
        )
    answers = Answers(reader, live)
    source: FrameSource
    if reader is not None and live is None and holds_frames(reader):
        source = StoredFrames(reader)
    else:
        source = _decoded_frames(recipe, index, answers, max_bad)
    return _train(recipe, index, source, answers, run, ranks=ranks, fresh=fresh)


def _without_teacher(losses: LossSpec, *, cross_entropy: float) -> LossSpec:
    """The same without the terms that compare with a teacher."""
    return replace(losses, cross_entropy=cross_entropy, **dict.fromkeys(ARRAYS_OF_LOSS, 0.0))


def _check_teacher_is_of_use(
    losses: LossSpec, cache: Path | None, teacher: Literal["cached", "live"]
) -> None:
    needed = [loss for loss in ARRAYS_OF_LOSS if getattr(losses, loss)]
    if needed and cache is None and teacher == "cached":
        raise ExperimentError(
            "The student's losses need the teacher's answers: name their store with --cache, "
            "compute them in every step with --teacher live, or train from labels alone with "
            "--no-distill."
        )
    if not needed and teacher == "live":
        raise ExperimentError(
            "--teacher live would run the teacher for nothing: no loss compares with it. Give one "
            f"of student.losses.{', '.join(ARRAYS_OF_LOSS)} a weight, or leave the option out."
        )


def _decoded_frames(
    recipe: Recipe, index: VideoIndex, answers: Answers, max_bad: float
) -> DecodedFrames:
    return DecodedFrames(
        recipe.experiment,
        index,
        recipe.experiment.data.train_split,
        size=recipe.size,
        replay=answers.reader,
        num_views=answers.num_views(recipe),
        keep_clips=answers.live is not None,
        workers=recipe.training.workers,
        memory_bytes=int(recipe.training.memory_gb * 1e9),
        max_bad=max_bad,
    )


def _train(
    recipe: Recipe,
    index: VideoIndex,
    source: FrameSource,
    answers: Answers,
    run: Path,
    *,
    ranks: Ranks,
    fresh: bool,
) -> dict[str, Any]:
    entries = index.split(recipe.experiment.data.train_split)
    complexity(  # refuses frames the model cannot take, before a video is opened
        recipe.model,
        num_classes=len(index.classes),
        num_frames=recipe.experiment.clip.num_frames,
        size=recipe.size,
    )
    task = _build_task(recipe, index, answers)
    digest = recipe_digest(recipe, index, source.videos, answers)
    folder = RunFolder(run, digest, keep=recipe.training.keep)
    if fresh and ranks.is_first:
        folder.clear()
    ranks.wait()
    batches = Batches(
        source,
        Labels(
            entries,
            num_classes=len(index.classes),
            kind=recipe.training.labels.kind,
            seed=recipe.training.seed,
        ),
        targets=[array.name for array in answers.stored_arrays(recipe.losses)],
        reader=answers.reader,
        num_views=answers.num_views(recipe),
        batch_size=recipe.training.batch_size,
        accumulation=recipe.training.accumulation,
        seed=recipe.training.seed,
        ranks=ranks,
    )
    stepper = Stepper(task, recipe.training, ranks, answers.live)
    train(stepper, Training(batches=batches, spec=recipe.training, run=folder, ranks=ranks))
    if ranks.is_first:
        save_checkpoint(
            run,
            stepper.model,
            role=recipe.role,
            spec=recipe.model,
            size=recipe.size,
            classes=index.classes,
            experiment=experiment_tree(recipe.experiment),
        )
    ranks.wait()
    return _summary(recipe, run)


def _build_task(recipe: Recipe, index: VideoIndex, answers: Answers) -> Task:
    labels, num_classes = recipe.training.labels, len(index.classes)
    entries = index.split(recipe.experiment.data.train_split)
    weights = class_weights(labels, (entry.labels for entry in entries), num_classes=num_classes)
    torch.manual_seed(derived_seed(recipe.training.seed, "init"))
    model = build_model(recipe.model, num_classes=num_classes)
    start_from(model, recipe.model)
    if not recipe.losses.feature_mse:
        return Task(model, recipe.losses, labels=labels, class_weights_K=weights)
    arrays = {array.name: array for array in answers.arrays(recipe.losses)}
    return Task(
        model,
        recipe.losses,
        labels=labels,
        class_weights_K=weights,
        teacher_channels=arrays["features"].row_shape[1],
        teacher_grid=answers.teacher_grid,
    )


def _summary(recipe: Recipe, run: Path) -> dict[str, Any]:
    events = read_events(run)
    seconds = sorted(event["seconds"] for event in events)
    return {
        "run": str(run),
        "role": recipe.role,
        "epochs": len(events),
        "seconds_per_epoch": seconds[len(seconds) // 2],
        "loss": events[-1]["loss"],
        "train_top1": events[-1]["train_top1"],
        "data_wait_share": events[-1]["data_wait_share"],
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The facts about a finished run for a person."""
    return (
        f"{summary['role']} trained: {summary['run']}\n"
        f"{summary['epochs']} epochs of {summary['seconds_per_epoch']:.1f} s, last loss "
        f"{summary['loss']:.4f}, training top-1 {summary['train_top1']:.3f}, "
        f"{summary['data_wait_share']:.0%} of the time waiting for data"
    )
