"""Fill a cache: find the missing units of a run, compute them one by one, commit each."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reskd.common.console import progress, say
from reskd.common.dataset.index import read_index
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import StoppedShortError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import check_teacher, load_checkpoint
from reskd.common.signals import preemptible
from reskd.teacher_cache.fill.check_precision import check_precision
from reskd.teacher_cache.fill.check_teacher import check_accuracy, check_trained
from reskd.teacher_cache.fill.compute import (
    VideoOutput,
    batch_groups,
    compute_outputs,
    failed_output,
    group_order,
)
from reskd.teacher_cache.fill.cut import ClipSource, CutTask
from reskd.teacher_cache.fill.job import Job, RunOptions, job_of_rows, teacher_for
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.opening import cache_of, is_new, new_cache
from reskd.teacher_cache.fill.writer import BackgroundWriter, UnitBuffers, sole_writer
from reskd.teacher_cache.format.commits import failures, read_commit, read_commits
from reskd.teacher_cache.format.manifest import Generation, Manifest
from reskd.teacher_cache.format.plan import CachePlan
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.run_log import append_run

FREE_SPACE_FACTOR = 1.2
TAKEN_OUT = "the index does not list it any more"
"""Why a video has no rows that was taken out before the teacher came to it."""


def run_cache_teacher(
    experiment: Experiment, plan: CachePlan, folder: Path, options: RunOptions
) -> dict[str, Any]:
    """Fill a cache; what earlier runs committed is kept.

    Returns:
        Facts about the now complete cache, for JSON.

    Raises:
        DataError: If the index or the teacher's checkpoint is missing or does not fit, or the
            teacher is less accurate than the experiment states.
        CacheError: If the folder holds another experiment's cache.
        StoppedShortError: If too many videos are unreadable or the disk is too small.
        PreemptedError: If a signal asked to stop.
    """
    index = read_index(experiment.data.index)
    check_trained(experiment.teacher.checkpoint)
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    checked = None  # before anything is made: the same folder must be free for a fixed teacher
    if is_new(folder):
        check_teacher(experiment, checkpoint, index.classes)
        source = ClipSource(experiment=experiment, index=index, threads=options.threads)
        checked = check_precision(source, plan.split, plan.targets, model, options.device)
        plain = Teacher(
            model,
            options.device,
            mode=experiment.teacher.mode,
            precision=experiment.teacher.precision,
        )
        check_accuracy(experiment, index, plain, split=plan.split, threads=options.threads)
        new_cache(experiment, index, folder, plan, checkpoint)
    manifest = cache_of(experiment, index, folder, plan, checkpoint)
    check_teacher(experiment, checkpoint, manifest.class_names)
    if checked is not None:
        append_run(folder, experiment, {"precision_check": checked.as_dict()})
    teacher = teacher_for(experiment, model, manifest, options.device)
    job = job_of_rows(experiment, index, folder, manifest, options)
    with sole_writer(folder), preemptible():
        generation = manifest.generations[0]
        missing = missing_units(folder, manifest, generation)
        written = fill(job, manifest, generation, missing, teacher)
        for later in manifest.generations[1:]:  # an extension that was stopped
            written += fill(job, manifest, later, missing_units(folder, manifest, later), teacher)
    return summary(folder, manifest, written)


def missing_units(folder: Path, manifest: Manifest, generation: Generation) -> list[int]:
    """Units that a run has not committed."""
    units = manifest.units_of(generation)
    finished = read_commits(folder, generation.number, units)
    return [unit for unit in units if unit not in finished]


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
    job: Job, manifest: Manifest, generation: Generation, units: Sequence[int], teacher: Teacher
) -> int:
    """Compute and commit some units of a run, in order; returns how many.

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
    total = len(manifest.units_of(generation))
    say(
        f"{job.folder}: {total} units, {total - len(units)} finished; "
        f"{todo} videos x {len(generation.view_range)} views to do"
    )
    written = read_commits(job.folder, generation.number, manifest.units_of(generation))
    failed = {video: why for video, why in failures(written.values()).items() if why != TAKEN_OUT}
    meters = FillMeters()
    finished = sum(len(layout.videos_of(unit)) for unit in manifest.units_of(generation)) - todo
    try:
        with progress("caching", finished + todo, unit="videos", done=finished) as advance:

            def on_video(video: int, failure: str | None) -> None:
                if failure is not None and failure != TAKEN_OUT:
                    failed[video] = failure
                    _check_failures(failed, video, job)
                advance()

            fill_units(job, manifest, generation, units, teacher, meters=meters, on_video=on_video)
    finally:
        _record(job, generation, meters)
    return len(units)


def fill_units(
    job: Job,
    manifest: Manifest,
    generation: Generation,
    units: Iterable[int],
    teacher: Teacher,
    *,
    meters: FillMeters,
    on_video: Callable[[int, str | None], None] = lambda video, failure: None,
) -> None:
    """Compute and commit units without checks or messages: `fill` less everything around it.

    Args:
        job: What, where and how.
        manifest: Of the cache.
        generation: The run.
        units: In order; the next is asked for when the one before it was handed to the writer.
        teacher: Runs in the calling thread, beside threads that decode and one that writes.
        meters: Count what is done.
        on_video: Called after each video with its number and, if it was unreadable, the reason.
            What it raises ends the run; units handed over before are committed.
    """
    start = time.perf_counter()
    try:
        with (
            _reader_of_views(job, generation) as reader,
            BackgroundWriter(job.folder, manifest, meters) as writer,
        ):
            for unit in units:
                videos = manifest.layout.videos_of(unit)
                buffers, bad = UnitBuffers(manifest, generation, unit), {}
                for output in _outputs(job, manifest, generation, unit, teacher, reader, meters):
                    video = videos.start + output.place
                    if output.failure is not None:
                        bad[video] = output.failure
                    buffers.put(output.place, output.rows)
                    on_video(video, output.failure)
                writer.submit(buffers, bad, _groups(job, videos, unit, bad))
                meters.seconds = time.perf_counter() - start
    finally:
        meters.seconds = time.perf_counter() - start


def _reader_of_views(
    job: Job, generation: Generation
) -> AbstractContextManager[CacheReader | None]:
    """For a run that adds targets to stored views; one for all units, as it reads all records."""
    if "views" in generation.arrays:
        return nullcontext()
    return CacheReader(job.folder)


def _outputs(
    job: Job,
    manifest: Manifest,
    generation: Generation,
    unit: int,
    teacher: Teacher,
    reader: CacheReader | None,
    meters: FillMeters,
) -> Iterator[VideoOutput]:
    """Rows of all videos of a unit, those that earlier runs could not read first."""
    videos, views = manifest.layout.videos_of(unit), generation.view_range
    plan = manifest.plan_of(generation)
    known = _earlier_failures(job.folder, generation, unit)
    known |= {video: TAKEN_OUT for video in videos if video in job.gone}

    def task(place: int) -> CutTask:
        video = videos[place]
        stored = None
        if reader is not None and video not in known:
            empty = reader.empty("views", len(views))
            stored = reader.gather("views", views, [video] * len(views), empty)
        return CutTask(place, job.entries[video], views, stored, job.id_of(video))

    for video, reason in known.items():
        yield failed_output(job.source, plan, task(video - videos.start), reason)
    order: Sequence[int] = range(len(videos))
    if job.grouped:
        order = group_order(job.experiment.views.seed, unit, len(videos))
    tasks = (task(place) for place in order if videos[place] not in known)
    needed = None if {array.name for array in plan.arrays} <= FROM_VIDEO_ALONE else teacher
    yield from compute_outputs(job.source, plan, tasks, needed, meters)


def _earlier_failures(folder: Path, generation: Generation, unit: int) -> dict[int, str]:
    """Videos of a unit that earlier runs could not read: what is marked once stays marked."""
    earlier = (read_commit(folder, number, unit) for number in range(1, generation.number))
    return failures(commit for commit in earlier if commit is not None)


def _groups(job: Job, videos: range, unit: int, failed: dict[int, str]) -> list[list[int]]:
    """The groups in which a teacher in mode batch saw a unit's videos; none in mode eval."""
    if not job.grouped:
        return []
    order = group_order(job.experiment.views.seed, unit, len(videos))
    ordered = [videos[place] for place in order]
    return batch_groups([video for video in ordered if video not in failed])


def _check_failures(failed: dict[int, str], latest: int, job: Job) -> None:
    say(f"unreadable: {job.entries[latest].id}: {failed[latest]}")
    if len(failed) <= job.options.max_bad * len(job.entries):
        return
    shown = "\n".join(
        f"  {job.entries[video].id}: {why}" for video, why in list(failed.items())[:10]
    )
    raise StoppedShortError(
        f"{len(failed)} of {len(job.entries)} videos are unreadable, more than the "
        f"{job.options.max_bad:.2%} that --max-bad allows:\n{shown}\nFix or remove these files "
        "and import the folder again, or allow more with --max-bad; finished units are kept."
    )


def _record(job: Job, generation: Generation, meters: FillMeters) -> None:
    rate = meters.bytes / meters.write_seconds / 1e6 if meters.write_seconds else 0.0
    say(
        f"{meters.units} units, {meters.bytes / 1e6:.1f} MB in {meters.seconds:.1f} s; written at "
        f"{rate:.0f} MB/s beside the teacher, which waited {meters.stall_seconds:.2f} s for it"
    )
    facts = {"generation": generation.number, **asdict(meters), "device": str(job.options.device)}
    append_run(job.folder, job.experiment, facts)


def summary(folder: Path, manifest: Manifest, units_written: int) -> dict[str, Any]:
    """Facts about a complete cache, for JSON."""
    commits = [
        commit
        for one in manifest.generations
        for commit in read_commits(folder, one.number, manifest.units_of(one)).values()
    ]
    return {
        "cache": str(folder),
        "fingerprint": manifest.fingerprint,
        "split": manifest.split,
        "videos": manifest.layout.num_videos,
        "views": manifest.layout.num_views,
        "units": manifest.layout.num_units,
        "units_written": units_written,
        "bytes": sum(commit.bytes for commit in commits),
        "failed_videos": len(failures(commits)),
    }
