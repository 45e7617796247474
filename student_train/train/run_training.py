"""One training run from its recipe to a checkpoint: build, train, measure, save."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from reskd.common.console import in_lines, say
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.devices import failures_told
from reskd.common.distill.arrays import ArraySpec
from reskd.common.distill.losses import class_weights
from reskd.common.errors import DataError, ExperimentError
from reskd.common.experiment.load import experiment_tree
from reskd.common.experiment.training import ON_FEATURES, ON_LABEL_AND_LOGITS
from reskd.common.models.checkpoint import save_checkpoint, start_from
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model, complexity
from reskd.common.rng import derived_seed
from reskd.common.signals import stop_request
from reskd.student_train.data.batches import Batch, Batches, FrameSource
from reskd.student_train.data.labels import Labels
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.results import number_text
from reskd.student_train.run.folder import FAILURE_FOLDER, RunFolder
from reskd.student_train.run.log import EVENTS_FILE, open_log, read_events
from reskd.student_train.run.model_card import write_cards
from reskd.student_train.run.provenance import RunStart
from reskd.student_train.run.state import RunPosition
from reskd.student_train.train.freeze import freeze
from reskd.student_train.train.loop import Training, train
from reskd.student_train.train.recipe import Recipe, TargetSource, recipe_facts
from reskd.student_train.train.reproduce import save_failure
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.task import MoreTeacher, Task
from reskd.student_train.train.validation import Validation

LESS_MEMORY: Final = (
    "Stop what else uses it, raise training.accumulation, which cuts a step into smaller parts, or "
    "lower training.batch_size."
)
"""What to do where a device does not hold a step."""
TRIED: Final = 8
"""Videos that may be unreadable before a split is taken for absent."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run learns from."""

    index: VideoIndex
    """Videos and classes."""
    source: FrameSource
    """Frames of its training split."""
    targets: TargetSource
    """What a teacher says about them."""


def run_training(
    recipe: Recipe,
    data: TrainingData,
    run: Path,
    *,
    processes: ProcessGroup,
    fresh: bool,
    replace: str | None = None,
    resume_from: int | None = None,
    validate: bool,
    keeping: ClipKeeping | None,
    command: Sequence[str],
) -> dict[str, Any]:
    """Train a network and write its checkpoint directory.

    Args:
        recipe: Which network, how.
        data: What it learns from.
        run: Folder of the run.
        processes: This process and the others.
        fresh: Forget an earlier run of this recipe in the same folder.
        replace: Name of that folder, to forget whatever run it holds.
        resume_from: Steps done in the saved state to go on from; None takes the newest one.
        validate: Measure it, where the index has data.val_split.
        keeping: Where the clips for that are kept; None keeps none.
        command: What was typed, for the run's log; empty where Python code calls.

    Returns:
        Facts about the finished run, for JSON; figures are None where its log was lost.

    Raises:
        DataError: If the index lacks the split that data.val_split names, test clips cannot be
            kept in the folder that was named for them, or the folder of the run holds another one,
            or one that cannot be removed.
        StoppedShortError: If another process trains in that folder, or as `train`.
        PreemptedError, KeyboardInterrupt: If a signal asked to stop; a step, or the measurement of
            a few videos, is finished first.
    """
    if validate and recipe.experiment.data.val_split is not None:
        data.index.split(recipe.experiment.data.val_split)  # refuses one that is not there
    complexity(  # refuses frames the model cannot take, before a video is opened
        recipe.model,
        num_classes=len(data.index.classes),
        num_frames=recipe.experiment.clip.num_frames,
        size=recipe.size,
    )
    start = RunStart.now(recipe, data.targets, processes, command=command)
    task = build_task(recipe, data)
    facts = recipe_facts(recipe, data.index, data.source.videos, data.targets)
    folder = RunFolder(run, facts, keep=recipe.training.keep, resume_from=resume_from)

    def save(path: Path, model: Recognizer) -> None:
        save_checkpoint(
            path,
            model,
            role=recipe.role,
            spec=recipe.model,
            size=recipe.size,
            classes=data.index.classes,
            experiment=experiment_tree(recipe.experiment),
        )

    def keep_failure(stepper: Stepper, batch: Batch, place: RunPosition, problem: str) -> Path:
        facts = {**_facts(recipe, len(data.index.classes)), "rank": processes.rank}
        # Each process has met clips of its own.
        kept = run / (
            FAILURE_FOLDER if processes.is_first else f"{FAILURE_FOLDER}-{processes.rank}"
        )
        save_failure(kept, stepper, batch, place, problem=problem, facts=facts)
        return kept

    with stop_request() as stop, folder.held(processes):
        if fresh or replace is not None:
            folder.start_over(processes, replace=replace)
        validation = None
        if validate and _can_validate(recipe, data.index, processes):
            validation = Validation(
                recipe=recipe,
                index=data.index,
                processes=processes,
                folder=run,
                save=save,
                keeping=keeping,
                stop=stop,
            )
            validation.check_keeping()
        stepper = Stepper(task, recipe.training, processes, data.targets.live)
        training = Training(
            batches=batches_of(recipe, data, processes),
            spec=recipe.training,
            run=folder,
            processes=processes,
            after_epoch=None if validation is None else validation.after_epoch,
            on_failure=keep_failure,
            stop=stop,
            start=start,
            role=recipe.role,
        )
        with failures_told(processes.device, memory=LESS_MEMORY):
            place = train(stepper, training)
        if processes.is_first:
            save(run, stepper.model)
        processes.wait()
        measured: dict[str, Any] = {}
        if validation is not None:
            with open_log(run, step=place.steps_done, writes=processes.is_first) as log:
                measured = validation.at_end(stepper.model, place, log)
        if processes.is_first:
            write_cards(
                run,
                start,
                measured,
                epochs=recipe.training.epochs,
                finished_after=place.finished_after,
            )
        return _summary(recipe, run) | ({"validation": measured} if measured else {})


def _can_validate(recipe: Recipe, index: VideoIndex, processes: ProcessGroup) -> bool:
    """Whether every process can; the first one says why not.

    A student may well be trained from a cache where there are no videos; that must not fail.
    """
    problems = [problem for problem in processes.all_of(_lacking(recipe, index)) if problem]
    if problems and processes.is_first:
        say(problems[0])
    return not problems


def _lacking(recipe: Recipe, index: VideoIndex) -> str:
    """Why this process cannot measure; empty where it can."""
    data = recipe.experiment.data
    split = data.measured_split
    if split not in index.split_names():
        return f"The index has no split {split!r} (data.val_split), so the run is not measured."
    problem = ""
    for entry in index.split(split)[:TRIED]:
        try:
            with open_entry(index, entry, data):
                return ""
        except DataError as error:
            problem = str(error)
    return f"The run is not measured: the videos of split {split!r} are not here. {problem}"


def batches_of(recipe: Recipe, data: TrainingData, processes: ProcessGroup) -> Batches:
    """All epochs of a run."""
    training = recipe.training
    labels = Labels(
        data.targets.entries(recipe, data.index),
        num_classes=len(data.index.classes),
        kind=training.labels.kind,
        seed=training.seed,
    )
    return Batches(
        data.source,
        labels,
        targets=data.targets.target_names(recipe.losses),
        cache=data.targets.cache,
        num_views=data.targets.num_views(recipe),
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        batchnorm_group=training.batchnorm_group,
        seed=training.seed,
        order=training.order,
        processes=processes,
    )


def build_task(recipe: Recipe, data: TrainingData) -> Task:
    """The network, with the weights it starts from, and its losses."""
    labels, num_classes = recipe.training.labels, len(data.index.classes)
    entries = data.index.split(recipe.experiment.data.train_split)
    _check_one_label(recipe, entries)
    weights = class_weights(labels, (entry.labels for entry in entries), num_classes=num_classes)
    torch.manual_seed(derived_seed(recipe.training.seed, "init"))
    model = build_model(recipe.model, num_classes=num_classes)
    start_from(model, recipe.model)
    freeze(model, recipe.training.freeze)
    on_features = bool(recipe.losses.with_weight(ON_FEATURES))
    return Task(
        model,
        recipe.losses,
        labels=labels,
        class_weights_K=weights,
        teacher_channels=_channels(data.targets.arrays(recipe.losses)),
        teacher_grid=data.targets.teacher_grid if on_features else None,
        more=[
            MoreTeacher(losses, _channels(cache.arrays), cache.teacher_grid)
            for losses, cache in zip(recipe.more_losses, data.targets.more, strict=True)
        ],
    )


def _channels(arrays: Sequence[ArraySpec]) -> int | None:
    """C of stored feature maps; None without any."""
    return next((array.row_shape[1] for array in arrays if array.name == "features"), None)


def _check_one_label(recipe: Recipe, entries: Sequence[VideoEntry]) -> None:
    all_losses = (recipe.losses, *recipe.more_losses)
    asked = [name for losses in all_losses for name in losses.with_weight(ON_LABEL_AND_LOGITS)]
    several = next((entry for entry in entries if len(entry.labels) > 1), None)
    if asked and several is not None:
        raise ExperimentError(
            f"{recipe.role}.losses.{asked[0]} tells the one right class from all others, but "
            f"{several.id} of split {recipe.experiment.data.train_split!r} has "
            f"{len(several.labels)} labels. Take {recipe.role}.losses.logit_kd."
        )


def _facts(recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """What a step needs beside its tensors to be computed again."""
    return {
        "experiment": recipe.experiment.name,
        "role": recipe.role,
        "model": {**asdict(recipe.model), "pretrained": False, "start": None},
        "num_classes": num_classes,
        "losses": asdict(recipe.losses),
        "labels": asdict(recipe.training.labels),
        "precision": recipe.training.precision,
        "accumulation": recipe.training.accumulation,
        "batchnorm_group": recipe.training.batchnorm_group,
        "freeze": recipe.training.freeze,
        "seed": recipe.training.seed,
    }


_SUMMED_UP: Final = ("seconds_per_epoch", "loss", "train_top1", "data_wait_share")


def _summary(recipe: Recipe, run: Path) -> dict[str, Any]:
    events = read_events(run)
    seconds = sorted(event["seconds"] for event in events if event.get("seconds") is not None)
    last = events[-1] if events else {}  # a log that was lost or deleted
    return {
        "run": str(run),
        "role": recipe.role,
        "epochs": recipe.training.epochs,
        "seconds_per_epoch": seconds[len(seconds) // 2] if seconds else None,
        **{name: last.get(name) for name in _SUMMED_UP[1:]},
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The facts about a finished run for a person."""
    lines = [f"{summary['role']} trained: {summary['run']}"]
    figures = [summary[name] for name in _SUMMED_UP]
    if any(figure is None for figure in figures):
        lines.append(f"{summary['epochs']} epochs; its {EVENTS_FILE} is missing or holds no epoch")
    else:
        lines.append(
            f"{summary['epochs']} epochs of {summary['seconds_per_epoch']:.1f} s, last loss "
            f"{summary['loss']:.4f}, training top-1 {summary['train_top1']:.3f}, "
            f"{summary['data_wait_share']:.0%} of the time waiting for data"
        )
    for which, figures in summary.get("validation", {}).items():
        lines.append(
            f"{which} network (epoch {figures['of_epoch']}): {figures['metric']} "
            f"{number_text(figures.get(figures['metric']))}, {figures['videos']} videos, "
            f"{figures['protocol']}"
        )
    return in_lines(*lines)
