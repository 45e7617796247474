"""Stage two for Python programs; under torchrun or srun every process calls these functions."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from reskd.common.experiment import Experiment
from reskd.student_train.distributed import joined_processes
from reskd.student_train.evaluate.clip_keeping import CLIPS_GB, ClipKeeping
from reskd.student_train.evaluate.measure import evaluate_runs
from reskd.student_train.evaluate.results import evaluation_json, results_of
from reskd.student_train.train import runs as training


def train_student(
    experiment: Experiment,
    run: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    more_caches: Sequence[str | os.PathLike[str]] = (),
    teacher: Literal["cached", "live"] = "cached",
    distill: bool = True,
    max_bad: float | None = None,
    allow_incomplete: bool = False,
    on_missing: Literal["refuse", "compute"] = "refuse",
    fresh: bool = False,
    replace: str | None = None,
    resume_from: int | None = None,
    validate: bool = True,
    clips_store: str | os.PathLike[str] | None = None,
    clips_store_gb: float = CLIPS_GB,
    device: str = "auto",
) -> dict[str, Any]:
    """Train the experiment's student on small frames, from the teacher's stored targets.

    Called again after it was stopped, it goes on with the very step it had come to. The folder then
    is a checkpoint directory for `load_predictor`, `load_checkpoint` and `evaluate`.

    Args:
        experiment: What `load_experiment` gives.
        run: Folder of the run.
        cache: Teacher cache to learn from; None only without distillation or with a live teacher.
        more_caches: Further teachers' caches of the same views, for student.more_losses.
        teacher: `live` runs the teacher in every step instead of reading its targets.
        distill: False trains from labels alone, all else equal.
        max_bad: Share of unreadable videos at which to stop, 0 to 1; None takes data.max_bad.
        allow_incomplete: Use the finished units of a cache.
        on_missing: `compute` first does what `cache_teacher` does for all that the cache lacks,
            each process for a part; the cache is made where there is none.
        fresh: Forget an earlier run of this recipe in the folder.
        replace: Name of the folder, to forget whatever run or network it holds.
        resume_from: Steps done in the saved state to go on from, where a later one is damaged; None
            takes the newest one.
        validate: Measure on data.val_split while training and at the end.
        clips_store: Folder in which the test clips for that are kept; None: `INDEX.clips`.
        clips_store_gb: Most that it may take; 0 keeps none.
        device: auto, cpu, cuda or cuda:N; of several processes each takes its own.

    Returns:
        Facts about the finished run, as `reskd train-student --json` prints them.

    Raises:
        ExperimentError: If there is no student, or teacher, cache and losses do not fit each other.
        DataError: If the index, or a teacher that is to run, is missing or does not fit, or the
            folder holds another run.
        LaunchError: If the processes that were started together cannot meet.
        CacheError: If the cache is damaged or another experiment's, or lacks videos of the index.
        StoppedShortError: If the cache is incomplete or cannot be filled, too many videos are
            unreadable, training diverged, another process trains in this folder, or one of this run
            was lost; what was saved is kept.
        PreemptedError: If SIGTERM or SIGUSR1 asked to stop.
    """
    with joined_processes(device) as processes:
        return training.train_student(
            experiment,
            Path(run).absolute(),
            cache=None if cache is None else Path(cache),
            more_caches=[*map(Path, more_caches)],
            teacher=teacher,
            distill=distill,
            processes=processes,
            max_bad=experiment.data.max_bad if max_bad is None else max_bad,
            fresh=fresh,
            replace=replace,
            resume_from=resume_from,
            allow_incomplete=allow_incomplete,
            on_missing=on_missing,
            validate=validate,
            keeping=_keeping(clips_store, clips_store_gb),
        )


def evaluate(
    runs: Sequence[str | os.PathLike[str]],
    *,
    index: str | os.PathLike[str] | None = None,
    split: str | None = None,
    experiment: Experiment | None = None,
    clips_store: str | os.PathLike[str] | None = None,
    clips_store_gb: float = CLIPS_GB,
    device: str = "auto",
    **protocol: float,
) -> dict[str, Any]:
    """Measure trained networks on the same videos: accuracy with intervals, mAP and cost.

    The probabilities of a video's views are averaged; a video that cannot be read counts as
    predicted wrongly.

    Args:
        runs: Checkpoint directories; a teacher among them also gives the students' agreement.
        index: Video index; None takes the one of the first run's experiment.
        split: Split to measure; None takes data.val_split of the first run's experiment.
        experiment: Says how to measure networks that were imported without an experiment.
        clips_store: Folder in which test clips are kept, of protocols of one view per video; None:
            `INDEX.clips`.
        clips_store_gb: Most that it may take; 0 keeps none.
        device: auto, cpu, cuda or cuda:N.
        protocol: Fields of the `evaluation` section to replace: clips, crops, batch_size and so on.

    Returns:
        Of one run its figures: top1, top5, mean_average_precision and mean_class_accuracy as
        fractions with 95 % intervals, calibration, counts and cost; of several `runs`, a list of
        these, and `comparisons`. As `reskd evaluate --json` prints it.

    Raises:
        DataError: If a checkpoint or the index is missing, classes differ, a run has no experiment
            and none is given, or a network's scores are no numbers.
        LaunchError: If the processes that were started together cannot meet.
        ExperimentError: If an experiment or the protocol is wrong.
        StoppedShortError: If another process of several was lost.
        PreemptedError: If SIGTERM or SIGUSR1 asked to stop.
    """
    with joined_processes(device) as processes:
        measured = evaluate_runs(
            [Path(run).absolute() for run in runs],
            index_path=None if index is None else Path(index),
            split=split,
            processes=processes,
            protocol=protocol,
            given=experiment,
            keeping=_keeping(clips_store, clips_store_gb),
        )
    return evaluation_json(results_of(measured))


def _keeping(folder: str | os.PathLike[str] | None, most_gb: float) -> ClipKeeping | None:
    named = None if folder is None else Path(folder).absolute()
    return ClipKeeping(folder=named, most_gb=most_gb) if most_gb else None
