"""Fill a cache: find the missing units of a run, have them computed and committed."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reskd.common.console import progress, say
from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import StoppedShortError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import CheckpointInfo, check_teacher, load_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.common.signals import preemptible
from reskd.teacher_cache.fill.bad_videos import BadVideos
from reskd.teacher_cache.fill.check_precision import check_precision
from reskd.teacher_cache.fill.check_teacher import check_accuracy, check_trained
from reskd.teacher_cache.fill.cluster import reached
from reskd.teacher_cache.fill.computed import computed_here, say_differences
from reskd.teacher_cache.fill.cut import ClipSource
from reskd.teacher_cache.fill.job import Job, RunOptions, job_of_rows, teacher_for
from reskd.teacher_cache.fill.locks import creator, slice_writer, sole_writer
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.opening import cache_of, is_new, new_cache
from reskd.teacher_cache.fill.pipeline.fill_units import fill_units
from reskd.teacher_cache.fill.workers.driver import fill_with_workers
from reskd.teacher_cache.format.commits import (
    Computed,
    failures,
    missing_units,
    read_commits,
)
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import Generation, Manifest
from reskd.teacher_cache.format.plan import CachePlan
from reskd.teacher_cache.run_log import append_run

FREE_SPACE_FACTOR = 1.2


def run_cache_teacher(
    experiment: Experiment, plan: CachePlan, folder: Path, options: RunOptions
) -> dict[str, Any]:
    """Fill a cache; what earlier runs committed is kept.

    Returns:
        Facts about the cache, for JSON; complete unless one slice was asked for.

    Raises:
        DataError: If the index or the teacher's checkpoint is missing or does not fit, or the
            teacher is less accurate than the experiment states.
        CacheError: If the folder holds another experiment's cache.
        LaunchError: If the cluster that is to do it cannot be reached.
        StoppedShortError: If too many videos are unreadable, the disk is too small, or another
            process is writing the same slice or all of the cache.
        PreemptedError: If a signal asked to stop.
    """
    with reached(options.ray):
        return _run(experiment, plan, folder, options)


def _run(
    experiment: Experiment, plan: CachePlan, folder: Path, options: RunOptions
) -> dict[str, Any]:
    index = read_index(experiment.data.index)
    check_trained(experiment.teacher.checkpoint)
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    if is_new(folder):
        check_teacher(experiment, checkpoint, index.classes)
        _check_and_create(experiment, index, folder, plan, (model, checkpoint), options)
    manifest, contents = cache_of(experiment, index, folder, plan, checkpoint)
    check_teacher(experiment, checkpoint, manifest.class_names)
    teacher = teacher_for(experiment, model, manifest, options.device)
    job = job_of_rows(experiment, index, folder, manifest, options, contents=contents)
    part, written = options.part, 0
    with sole_writer(folder) if part is None else slice_writer(folder, part), preemptible():
        for generation in manifest.generations:  # the later ones: of an extension that was stopped
            missing = options.own(missing_units(folder, manifest, generation))
            written += fill(job, manifest, generation, missing, teacher)
    return summary(folder, manifest, written)


def _check_and_create(
    experiment: Experiment,
    index: VideoIndex,
    folder: Path,
    plan: CachePlan,
    teacher: tuple[Recognizer, CheckpointInfo],
    options: RunOptions,
) -> None:
    """Make a cache of a teacher that is checked first: the folder must be free for a fixed one.

    Of several drivers one does that. The others wait, and find the cache.
    """
    model, checkpoint = teacher
    with creator(folder):
        if not is_new(folder):
            return
        source = ClipSource(experiment=experiment, index=index, threads=options.threads)
        checked = check_precision(source, plan.split, plan.targets, model, options.device)
        plain = Teacher(
            model,
            options.device,
            mode=experiment.teacher.mode,
            precision=experiment.teacher.precision,
        )
        check_accuracy(experiment, index, plain, split=plan.split, threads=options.threads)
        made = new_cache(experiment, index, folder, plan, checkpoint)
    if made and checked is not None:
        append_run(folder, experiment, {"precision_check": checked.as_dict()})


def check_free_space(folder: Path, need: int) -> None:
    """Refuse to start what cannot end.

    Args:
        folder: An existing folder on the disk in question.
        need: Bytes that will be written.

    Raises:
        StoppedShortError: If less than 1.2 times that is free.
    """
    free = shutil.disk_usage(folder).free
    if free < FREE_SPACE_FACTOR * need:
        raise StoppedShortError(
            f"No space for {folder}: {need / 1e6:.1f} MB are to be written, {FREE_SPACE_FACTOR} "
            f"times that must be free, and {free / 1e6:.1f} MB are. Make room and run the same "
            "command again, or start anyway with --force."
        )


def fill(
    job: Job,
    manifest: Manifest,
    generation: Generation,
    units: Sequence[int],
    teacher: Teacher,
    *,
    again: Mapping[int, Computed | None] | None = None,
) -> int:
    """Compute and commit some units of a run, in order; returns how many.

    Args:
        job: What, where and how.
        manifest: Of the cache.
        generation: The run.
        units: In order.
        teacher: With all outputs that the cache holds.
        again: Units that are computed again, and what their records say of how they were computed.

    Raises:
        StoppedShortError: If too many videos are unreadable or the disk is too small.
    """
    if not units:
        return 0
    if not job.options.force:
        need = sum(manifest.generation_bytes(generation, unit) for unit in units)
        check_free_space(job.folder, need)
    layout = manifest.layout
    todo = sum(len(layout.videos_of(unit)) for unit in units)
    own = job.options.own(manifest.units_of(generation))
    where = "" if job.options.part is None else f" of slice {job.options.part}"
    say(
        f"{job.folder}: {len(own)} units{where}, {len(own) - len(units)} finished; "
        f"{todo} videos x {len(generation.view_range)} views to do"
    )
    if again is None and not job.options.devices:  # workers' numbers of threads are their own
        written = read_commits(job.folder, generation.number, manifest.units_of(generation))
        say_differences((one.computed for one in written.values()), computed_here(teacher, 0))
    bad = BadVideos(job, _known_failures(job.folder, manifest, generation))
    meters = FillMeters()
    finished = sum(len(layout.videos_of(unit)) for unit in own) - todo
    try:
        with progress("caching", finished + todo, unit="videos", done=finished) as advance:

            def on_video(video: int, failure: str | None) -> None:
                bad.note(video, failure)
                advance()

            def unfinished() -> Iterator[int]:
                """Less those that drivers of slices which overlap commit meanwhile."""
                for unit in units:
                    if (job.folder / commit_key(generation.number, unit)).exists():
                        advance(len(layout.videos_of(unit)))
                    else:
                        yield unit

            begin = time.perf_counter()
            if job.options.devices or job.options.ray is not None:
                fill_with_workers(
                    job,
                    manifest,
                    generation,
                    unfinished(),
                    meters=meters,
                    again=again,
                    on_video=on_video,
                )
                meters.seconds = time.perf_counter() - begin
            else:
                fill_units(
                    job,
                    manifest,
                    generation,
                    unfinished(),
                    teacher,
                    meters=meters,
                    again=again,
                    on_video=on_video,
                )
    finally:
        _record(job, generation, meters)
    return meters.units


def _known_failures(folder: Path, manifest: Manifest, generation: Generation) -> dict[int, str]:
    """Videos that this run or an earlier one has marked."""
    runs = [one for one in manifest.generations if one.number <= generation.number]
    written = [read_commits(folder, one.number, manifest.units_of(one)) for one in runs]
    return failures(commit for commits in written for commit in commits.values())


def _record(job: Job, generation: Generation, meters: FillMeters) -> None:
    rate = meters.bytes / meters.write_seconds / 1e6 if meters.write_seconds else 0.0
    say(
        f"{meters.units} units, {meters.bytes / 1e6:.1f} MB in {meters.seconds:.1f} s; written at "
        f"{rate:.0f} MB/s beside the teacher; rows waited {meters.stall_seconds:.2f} s for it"
    )
    device = "ray" if job.options.ray is not None else str(job.options.device)
    facts = {"generation": generation.number, **asdict(meters), "device": device}
    append_run(job.folder, job.experiment, facts)


def summary(folder: Path, manifest: Manifest, units_written: int) -> dict[str, Any]:
    """Facts about a cache, which is complete unless one slice of it was filled; for JSON."""
    commits = [
        commit
        for one in manifest.generations
        for commit in read_commits(folder, one.number, manifest.units_of(one)).values()
    ]
    planned = sum(len(manifest.units_of(one)) for one in manifest.generations)
    return {
        "cache": str(folder),
        "fingerprint": manifest.fingerprint,
        "split": manifest.split,
        "videos": manifest.layout.num_videos,
        "views": manifest.layout.num_views,
        "units": manifest.layout.num_units,
        "units_written": units_written,
        "units_missing": planned - len(commits),
        "bytes": sum(commit.bytes for commit in commits),
        "failed_videos": len(failures(commits)),
    }
