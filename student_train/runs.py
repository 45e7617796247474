"""From an experiment to a trained network: what train-teacher and train-student do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from common.checkpoints import CONFIG_FILE, read_checkpoint_info, save_checkpoint
from common.config import experiment_tree
from common.console import say
from common.distill.targets import plan_targets
from common.errors import CacheError, ExperimentError
from common.models.recognizer import Recognizer
from common.models.registry import build_model, complexity
from common.records import digest
from common.rng import derived_seed
from common.specs import Experiment, LossSpec, ModelSpec, TrainingSpec
from common.video.index import VideoEntry, VideoIndex, read_index
from student_train.batches import Batches, DecodedFrames, FrameSource, StoredFrames
from student_train.loop import train
from student_train.run_folder import RunFolder, read_events
from student_train.task import Task
from teacher_cache.identity import cache_identity, first_difference
from teacher_cache.reader import CacheReader

TARGETS_OF_LOSS = {"feature_mse": ("features", "feature_residual"), "logit_kd": ("logits",)}


def train_teacher(
    experiment: Experiment, run: Path, *, device: torch.device, max_bad: float, fresh: bool
) -> dict[str, Any]:
    """Train the experiment's teacher on big frames, from labels alone.

    Returns:
        Facts about the finished run, for JSON.

    Raises:
        ExperimentError: If the experiment does not say how.
        DataError: If the index or the split is missing.
    """
    spec = experiment.teacher.training
    if spec is None:
        raise ExperimentError(
            "The experiment has no teacher.training: its teacher comes from elsewhere. Add "
            "teacher.training.epochs and so on to train one here."
        )
    index = read_index(experiment.data.index)
    source = DecodedFrames(
        experiment,
        index,
        experiment.data.train_split,
        size=experiment.views.size,
        replay=None,
        workers=spec.workers,
        memory_bytes=int(spec.memory_gb * 1e9),
        max_bad=max_bad,
    )
    return _train(
        _Recipe("teacher", experiment, experiment.teacher.model, experiment.views.size, spec),
        index,
        source,
        None,
        LossSpec(cross_entropy=1.0, feature_mse=0.0),
        run,
        device=device,
        fresh=fresh,
    )


def train_student(
    experiment: Experiment,
    run: Path,
    *,
    cache: Path | None,
    distill: bool,
    device: torch.device,
    max_bad: float,
    fresh: bool,
    allow_incomplete: bool,
) -> dict[str, Any]:
    """Train the experiment's student from a cache, from labels alone, or both.

    Args:
        experiment: Resolved experiment.
        run: Folder of the run.
        cache: Store to learn from. Without distillation it only provides the frames, or, when it is
            None, fresh views are decoded in every epoch.
        distill: False keeps the cross entropy alone.
        device: Where to train.
        max_bad: Share of unreadable videos at which training stops.
        fresh: Forget an earlier run in the same folder.
        allow_incomplete: Train on the finished units of an unfinished cache.

    Returns:
        Facts about the finished run, for JSON.

    Raises:
        CacheError: If the cache is damaged or another experiment's.
        StoppedShortError: If the cache is incomplete.
        DataError: If the index is missing.
    """
    index = read_index(experiment.data.index)
    spec, losses = experiment.student.training, experiment.student.losses
    if not distill:
        losses = replace(
            losses, cross_entropy=losses.cross_entropy or 1.0, feature_mse=0, logit_kd=0
        )
    elif (losses.feature_mse or losses.logit_kd) and cache is None:
        raise ExperimentError(
            "The student's losses need the teacher's answers: name their store with --cache, or "
            "train from labels alone with --no-distill."
        )
    reader = None
    if cache is not None:
        reader = open_cache(experiment, index, cache, allow_incomplete=allow_incomplete)
    source: FrameSource
    if reader is not None and any(array.name == "frames" for array in reader.manifest.arrays):
        source = StoredFrames(reader)
    else:
        source = DecodedFrames(
            experiment,
            index,
            experiment.data.train_split,
            size=experiment.student.size,
            replay=reader,
            workers=spec.workers,
            memory_bytes=int(spec.memory_gb * 1e9),
            max_bad=max_bad,
        )
    recipe = _Recipe("student", experiment, experiment.student.model, experiment.student.size, spec)
    return _train(recipe, index, source, reader, losses, run, device=device, fresh=fresh)


def open_cache(
    experiment: Experiment, index: VideoIndex, folder: Path, *, allow_incomplete: bool
) -> CacheReader:
    """Open the store of this very experiment, or say what differs.

    The teacher's weights need not be here: if they are absent, only the cache's own record of them
    exists. The decoder matters only where frames are decoded again.

    Raises:
        CacheError: If the cache is damaged, or another experiment's.
        DataError: If there is a teacher and its checkpoint is damaged.
        StoppedShortError: If units are missing and that is not allowed.
    """
    reader = CacheReader(folder)
    weights: str | None = None
    if (experiment.teacher.checkpoint / CONFIG_FILE).exists():
        weights = read_checkpoint_info(experiment.teacher.checkpoint).weights_sha256
    else:
        say(f"no teacher in {experiment.teacher.checkpoint}: trusting the cache's record of it")
    wanted = cache_identity(
        experiment, index, split=experiment.data.train_split, weights_sha256=weights
    )
    stored_frames = any(array.name == "frames" for array in reader.manifest.arrays)
    ignore = ("decoder",) if stored_frames else ()
    difference = first_difference(reader.manifest.identity, wanted, ignore=ignore)
    if difference is None:
        difference = _target_difference(experiment, reader)
    if difference is not None:
        raise CacheError(
            f"{folder} is not the cache of this experiment. First difference: {difference}. Use "
            "the experiment it was written with, or write a cache with `reskd cache-teacher`."
        )
    if not allow_incomplete:
        reader.require_complete()
    return reader


def _target_difference(experiment: Experiment, reader: CacheReader) -> str | None:
    """Targets are no identity, but those the experiment names must be there as it names them."""
    classes = reader.manifest.identity["index"]["classes"]
    return reader.manifest.fits(plan_targets(experiment, num_classes=len(classes)))


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Which network of the experiment is trained, on which frames."""

    role: Literal["teacher", "student"]
    experiment: Experiment
    model: ModelSpec
    size: int
    training: TrainingSpec


def _train(
    recipe: _Recipe,
    index: VideoIndex,
    source: FrameSource,
    reader: CacheReader | None,
    losses: LossSpec,
    run: Path,
    *,
    device: torch.device,
    fresh: bool,
) -> dict[str, Any]:
    entries = index.split(recipe.experiment.data.train_split)
    complexity(  # refuses frames the model cannot take, before a video is opened
        recipe.model,
        num_classes=len(index.classes),
        num_frames=recipe.experiment.clip.num_frames,
        size=recipe.size,
    )
    task = _build_task(recipe, len(index.classes), losses, reader)
    folder = RunFolder(run, _recipe_digest(recipe, index, source.videos, losses, reader))
    if fresh:
        folder.clear()
    targets = [
        name
        for loss, names in TARGETS_OF_LOSS.items()
        if getattr(losses, loss)
        for name in names
        if reader is not None and any(array.name == name for array in reader.manifest.arrays)
    ]
    batches = Batches(
        source,
        _labels(entries),
        targets=targets,
        reader=reader if targets else None,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
    )
    train(task, batches, recipe.training, folder, device=device)
    save_checkpoint(
        run,
        task.model,
        role=recipe.role,
        spec=recipe.model,
        size=recipe.size,
        classes=index.classes,
        experiment=experiment_tree(recipe.experiment),
    )
    return _summary(recipe, run)


def _build_task(
    recipe: _Recipe, num_classes: int, losses: LossSpec, reader: CacheReader | None
) -> Task:
    torch.manual_seed(derived_seed(recipe.training.seed, "init"))
    model: Recognizer = build_model(recipe.model, num_classes=num_classes)
    if not losses.feature_mse:
        return Task(model, losses)
    assert reader is not None, "a distilling student has a cache"
    return Task(
        model,
        losses,
        teacher_channels=reader.manifest.array("features").row_shape[1],
        teacher_grid=reader.manifest.teacher_grid,
    )


def _labels(entries: tuple[VideoEntry, ...]) -> list[int]:
    return [entry.labels[0] for entry in entries]


def _recipe_digest(
    recipe: _Recipe,
    index: VideoIndex,
    videos: Sequence[int],
    losses: LossSpec,
    reader: CacheReader | None,
) -> str:
    """Digest of everything that decides the trained weights, paths apart."""
    tree = experiment_tree(recipe.experiment)
    kept = {key: tree[key] for key in ("clip", "views", recipe.role)}
    kept[recipe.role].pop("checkpoint", None)
    for name in ("workers", "memory_gb"):  # they never change a result
        kept[recipe.role]["training"].pop(name)
    if reader is None:  # fresh views have no count
        kept["views"].pop("count")
    return digest(
        {
            **kept,
            "role": recipe.role,
            "losses": asdict(losses),
            "index": index.digest(recipe.experiment.data.train_split),
            "videos": list(videos),
            "cache": reader.manifest.fingerprint if reader else None,
        }
    )


def _summary(recipe: _Recipe, run: Path) -> dict[str, Any]:
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
