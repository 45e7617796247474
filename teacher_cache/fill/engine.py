"""Fill a cache: find the missing units of a run, compute them one by one, commit each."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reskd.common.console import progress, say
from reskd.common.dataset.index import read_index
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import CacheError, StoppedShortError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import check_teacher, load_checkpoint
from reskd.common.signals import preemptible
from reskd.teacher_cache.fill.check_teacher import check_accuracy
from reskd.teacher_cache.fill.compute import (
    Request,
    VideoOutput,
    batch_groups,
    compute_outputs,
    group_order,
    run_in_groups,
)
from reskd.teacher_cache.fill.job import Job, RunOptions, teacher_for
from reskd.teacher_cache.fill.writer import BackgroundWriter, UnitBuffers, create_cache, sole_writer
from reskd.teacher_cache.format.commits import failures, read_commit, read_commits
from reskd.teacher_cache.format.identity import Identity, cache_identity, first_difference
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, Generation, Manifest, read_manifest
from reskd.teacher_cache.format.plan import CachePlan
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.run_log import append_run

FREE_SPACE_FACTOR = 1.2


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
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    check_teacher(experiment, checkpoint, index)
    identity = cache_identity(
        experiment, index, split=plan.split, weights_sha256=checkpoint.weights_sha256
    )
    if not folder.exists() or not any(folder.iterdir()):
        # Before anything is made: a mended teacher must find the same folder free.
        judged = Teacher(model, options.device, mode=experiment.teacher.mode)
        check_accuracy(experiment, index, judged, split=plan.split, threads=options.threads)
    manifest = open_or_create(folder, identity, plan)
    teacher = teacher_for(experiment, model, manifest, options.device)
    entries = index.split(plan.split)
    job = Job(experiment=experiment, index=index, entries=entries, folder=folder, options=options)
    with sole_writer(folder), preemptible():
        generation = manifest.generations[0]
        missing = missing_units(folder, manifest, generation)
        written = fill(job, manifest, generation, missing, teacher)
        for later in manifest.generations[1:]:  # an extension that was stopped
            written += fill(job, manifest, later, missing_units(folder, manifest, later), teacher)
    return summary(folder, manifest, written)


def open_or_create(folder: Path, identity: Identity, plan: CachePlan) -> Manifest:
    """The manifest of the cache in a folder, which is made there if the folder is empty.

    Raises:
        CacheError: If the folder holds something else.
    """
    if not (folder / MANIFEST_FILE).exists():
        if folder.exists() and any(folder.iterdir()):
            raise CacheError(
                f"{folder} is not empty and holds no {MANIFEST_FILE}, so it is not a cache. "
                "Name a new folder, or clear this one."
            )
        create_cache(
            folder, identity=identity, plan=plan.targets, layout=plan.layout, codec=plan.codec
        )
    manifest = read_manifest(folder)
    difference = first_difference(manifest.identity, identity)
    if difference is not None:
        raise CacheError(
            f"{folder} holds the cache of another experiment. First difference: {difference}. "
            "Name another folder, or change the experiment back."
        )
    difference = manifest.fits(plan.targets)
    if manifest.layout.num_views < plan.layout.num_views:
        difference = (
            f"views.count: the cache has {manifest.layout.num_views}, "
            f"the experiment asks for {plan.layout.num_views}"
        )
    if difference is not None:
        raise CacheError(
            f"{folder} does not hold all that the experiment asks for. First difference: "
            f"{difference}. Add it with `reskd cache extend`, name another folder, or change the "
            "experiment back."
        )
    return manifest


def missing_units(folder: Path, manifest: Manifest, generation: Generation) -> list[int]:
    """Units that a run has not committed."""
    units = manifest.layout.num_units
    finished = read_commits(folder, generation.number, units)
    return [unit for unit in range(units) if unit not in finished]


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
    say(
        f"{job.folder}: {layout.num_units} units, {layout.num_units - len(units)} finished; "
        f"{todo} videos x {len(generation.view_range)} views to do"
    )
    failed = failures(read_commits(job.folder, generation.number, layout.num_units).values())
    start = time.perf_counter()
    writer = BackgroundWriter(job.folder, manifest)
    try:
        with (
            _reader_of_views(job, generation) as reader,
            progress(
                "caching", layout.num_videos, unit="videos", done=layout.num_videos - todo
            ) as advance,
            writer,
        ):
            for unit in units:
                buffers, bad = UnitBuffers(manifest, generation, unit), {}
                first = layout.videos_of(unit).start
                for answer in _answers(job, manifest, generation, unit, teacher, reader):
                    if answer.failure is not None:
                        bad[first + answer.place] = answer.failure
                        _check_failures(failed | bad, first + answer.place, job)
                    buffers.put(answer.place, answer.rows)
                    advance()
                writer.submit(buffers, bad, _groups(job, layout.videos_of(unit), unit, bad))
                failed |= bad
    finally:
        _record(job, generation, writer, time.perf_counter() - start)
    return len(units)


def _reader_of_views(
    job: Job, generation: Generation
) -> AbstractContextManager[CacheReader | None]:
    """For a run that adds targets to stored views; one for all units, as it reads all records."""
    if "views" in generation.arrays:
        return nullcontext()
    return CacheReader(job.folder)


def _answers(
    job: Job,
    manifest: Manifest,
    generation: Generation,
    unit: int,
    teacher: Teacher,
    reader: CacheReader | None,
) -> Iterator[VideoOutput]:
    videos = manifest.layout.videos_of(unit)
    known = {
        video - videos.start: reason
        for video, reason in _earlier_failures(job.folder, generation, unit).items()
    }
    plan = manifest.plan_of(generation)
    names = {array.name for array in plan.arrays}
    request = Request(
        experiment=job.experiment,
        index=job.index,
        plan=plan,
        views=generation.view_range,
        replay=None if reader is None else _stored_views(reader, videos, known),
        known_failures=known,
        threads=job.options.threads,
    )
    entries = job.entries[videos.start : videos.stop]
    if names <= FROM_VIDEO_ALONE:
        return compute_outputs(request, entries, None)
    if job.grouped:
        order = group_order(job.experiment.views.seed, unit, len(videos))
        return run_in_groups(request, entries, teacher, order)
    return compute_outputs(request, entries, teacher)


def _earlier_failures(folder: Path, generation: Generation, unit: int) -> dict[int, str]:
    """Videos of a unit that earlier runs could not read: what is marked once stays marked."""
    earlier = (read_commit(folder, number, unit) for number in range(1, generation.number))
    return failures(commit for commit in earlier if commit is not None)


def _stored_views(
    reader: CacheReader, videos: range, known: dict[int, str]
) -> dict[int, NDArray[np.int32]]:
    """Stored parameters of all views, by place: they are the truth, the seed only a label."""
    views = range(reader.manifest.layout.num_views)
    return {
        place: reader.gather(
            "views", views, [video] * len(views), reader.empty("views", len(views))
        )
        for place, video in enumerate(videos)
        if place not in known
    }


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
        f"{job.options.max_bad:.2%} that --max-bad allows:\n{shown}\nMend or remove these files "
        "and import the folder again, or allow more with --max-bad; finished units are kept."
    )


def _record(job: Job, generation: Generation, writer: BackgroundWriter, seconds: float) -> None:
    rate = writer.bytes / writer.write_seconds / 1e6 if writer.write_seconds else 0.0
    say(
        f"{writer.units} units, {writer.bytes / 1e6:.1f} MB in {seconds:.1f} s; written at "
        f"{rate:.0f} MB/s beside the teacher, which waited {writer.stall_seconds:.2f} s for it"
    )
    append_run(
        job.folder,
        job.experiment,
        {
            "generation": generation.number,
            "units": writer.units,
            "bytes": writer.bytes,
            "seconds": seconds,
            "write_seconds": writer.write_seconds,
            "stall_seconds": writer.stall_seconds,
            "device": str(job.options.device),
        },
    )


def summary(folder: Path, manifest: Manifest, units_written: int) -> dict[str, Any]:
    """Facts about a complete cache, for JSON."""
    commits = [
        commit
        for one in manifest.generations
        for commit in read_commits(folder, one.number, manifest.layout.num_units).values()
    ]
    return {
        "cache": str(folder),
        "fingerprint": manifest.fingerprint,
        "split": manifest.split,
        "videos": manifest.layout.num_videos,
        "views": manifest.layout.num_views,
        "units": manifest.layout.num_units,
        "units_written": units_written,
        "bytes": sum(stored.bytes for commit in commits for stored in commit.objects.values()),
        "failed_videos": len(failures(commits)),
    }
