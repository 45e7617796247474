"""Add videos, views or targets to a cache; what is there stays as it is, byte for byte."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from reskd.common.console import counted, say
from reskd.common.distill.arrays import ArraySpec, array_in_words
from reskd.common.distill.targets import ARRAYS_OF_TARGET, plan_targets
from reskd.common.errors import CacheError, ExperimentError, StoppedShortError
from reskd.common.experiment import (
    Experiment,
    FeaturesTarget,
    FramesTarget,
    LogitMapTarget,
    LogitsTarget,
    TargetsSpec,
)
from reskd.common.models.recognizer import Recognizer
from reskd.common.signals import preemptible
from reskd.teacher_cache.fill.engine import check_free_space, fill, summary
from reskd.teacher_cache.fill.job import Job, RunOptions, job_of_rows, job_on_cache, teacher_for
from reskd.teacher_cache.fill.locks import sole_writer
from reskd.teacher_cache.fill.writer import write_metadata
from reskd.teacher_cache.format.commits import missing_units
from reskd.teacher_cache.format.identity import videos_to_cache
from reskd.teacher_cache.format.manifest import Generation, Manifest, read_manifest
from reskd.teacher_cache.format.match import MatchedVideos
from reskd.teacher_cache.format.sources import check_sources
from reskd.teacher_cache.format.videos import CachedVideo, write_videos
from reskd.teacher_cache.read.contents import matched_videos

_DEFAULTS: Final = {
    "logits": LogitsTarget,
    "features": FeaturesTarget,
    "logit_map": LogitMapTarget,
    "frames": FramesTarget,
}


def with_targets(experiment: Experiment, names: Sequence[str]) -> Experiment:
    """The experiment with these targets switched on; how they are encoded it may say itself.

    Raises:
        ExperimentError: If a name is no target.
    """
    targets: TargetsSpec = experiment.targets
    for name in names:
        if name not in _DEFAULTS:
            raise ExperimentError(f"{name!r} is no target; --targets takes {', '.join(_DEFAULTS)}.")
        if getattr(targets, name) is None:
            targets = replace(targets, **{name: _DEFAULTS[name]()})
    return replace(experiment, targets=targets)


def extend_cache(
    experiment: Experiment,
    folder: Path,
    *,
    videos: bool = False,
    views: int | None,
    targets: Sequence[str],
    options: RunOptions,
) -> dict[str, Any]:
    """Add videos in units of their own, then views, then targets, these in runs over all units.

    An extension that was stopped is finished first; the same command again goes on. Until a run is
    complete, readers see the cache as it was before it.

    Args:
        experiment: The one the cache was written for; may say how new targets are encoded.
        folder: The cache.
        videos: Add those of the index's split that the cache has no row of.
        views: Wanted number of views; None adds none.
        targets: Names of targets to add; those already there are passed over.
        options: How to run.

    Returns:
        Facts about the cache, for JSON.

    Raises:
        CacheError: If this is not the experiment's cache, or it holds a target in another encoding.
        StoppedShortError: If the cache itself is not finished, or the disk is too small.
        ExperimentError: If a target is unknown, or so many views cannot be added.
        DataError: If the index or the teacher is missing or does not fit.
    """
    experiment = with_targets(experiment, targets)
    read_manifest(folder)  # explains what is missing
    with sole_writer(folder), preemptible():
        # Read once no other process can write it any more.
        job, manifest, model = job_on_cache(experiment, folder, options)
        check_sources(folder, manifest, experiment)
        if missing_units(folder, manifest, manifest.generations[0]):
            raise StoppedShortError(
                f"{folder} is incomplete; run `reskd cache-teacher` again to finish it first."
            )
        written = 0
        for generation in manifest.generations[1:]:
            written += _fill(job, manifest, generation, model)
        if videos:
            manifest = _with_videos(experiment, job, manifest)
            job = job_of_rows(experiment, job.index, folder, manifest, options, say_changes=False)
            written += _fill(job, manifest, manifest.generations[-1], model)
        for larger in _steps(experiment, manifest, views, targets):
            if not options.force:
                check_free_space(folder, larger.generation_bytes(larger.generations[-1]))
            manifest = write_metadata(folder, larger)
            written += _fill(job, manifest, manifest.generations[-1], model)
    return summary(folder, manifest, written)


def _fill(job: Job, manifest: Manifest, generation: Generation, model: Recognizer) -> int:
    """Do what a run has not done yet; the number of units."""
    missing = missing_units(job.folder, manifest, generation)
    layout = manifest.layout
    gone = [video for unit in missing for video in layout.videos_of(unit) if video in job.gone]
    if gone:
        say(
            f"{job.folder}: what is added has no rows of {counted(len(gone), 'video')} that the "
            "index does not list, and no row of theirs is read from now on; listed again, they "
            "count as new"
        )
    teacher = teacher_for(job.experiment, model, manifest, job.options.device)
    return fill(job, manifest, generation, missing, teacher)


def _with_videos(experiment: Experiment, job: Job, manifest: Manifest) -> Manifest:
    """The cache with rows to be filled of the videos it lacks; as it is if it lacks none.

    Raises:
        CacheError: If it has the first format.
        StoppedShortError: If the disk is too small.
    """
    if not manifest.videos:
        raise CacheError(
            f"{job.folder} was written before caches kept what tells one video from another, so no "
            "videos can be added to it. Write a new cache of all of them."
        )
    matched = matched_videos(job.folder, manifest, job.index, frames_of=experiment)
    new = matched.new
    if not new:
        say(f"{job.folder} has a row of every video of the index")
        return manifest
    layout = manifest.layout.with_videos(len(new))
    generation = Generation(
        number=len(manifest.generations) + 1,
        views=(0, layout.num_views),
        arrays=tuple(array.name for array in manifest.arrays),
        units=(manifest.layout.num_units, layout.num_units),
    )
    larger = replace(manifest, layout=layout, generations=(*manifest.generations, generation))
    if not job.options.force:
        check_free_space(job.folder, larger.generation_bytes(generation))
    table = write_videos(
        job.folder,
        len(manifest.videos) + 1,
        layout.videos_of(manifest.layout.num_units).start,
        [_in_classes_of_cache(one, matched) for one in videos_to_cache(experiment, new)],
    )
    return write_metadata(job.folder, replace(larger, videos=(*manifest.videos, table)))


def _in_classes_of_cache(video: CachedVideo, matched: MatchedVideos) -> CachedVideo:
    """A video of the index, its labels as numbers of the classes that the cache knows."""
    columns = matched.columns
    labels = () if columns is None else tuple(columns[label] for label in video.labels)
    return replace(video, labels=labels)


def _steps(
    experiment: Experiment, manifest: Manifest, views: int | None, targets: Sequence[str]
) -> list[Manifest]:
    steps = []
    if views is not None and views != manifest.layout.num_views:
        manifest = _with_views(manifest, views)
        steps.append(manifest)
    new = _new_arrays(experiment, manifest, targets)
    if new:
        steps.append(_with_arrays(manifest, new))
    return steps


def _with_views(manifest: Manifest, views: int) -> Manifest:
    layout = manifest.layout
    if views < layout.num_views:
        raise ExperimentError(
            f"The cache has {layout.num_views} views and --views asks for {views}; views can be "
            "added, not taken away. A student uses the first views.count of them."
        )
    if layout.num_views % layout.block_views:
        raise ExperimentError(
            f"The cache's {layout.num_views} views end inside a block of {layout.block_views}, and "
            "what is written is never rewritten, so no view can follow. Extend by whole blocks "
            f"while you mean to go on ({layout.block_views * (layout.num_blocks + 1)}, …), or "
            "write a new cache."
        )
    generation = Generation(
        number=len(manifest.generations) + 1,
        views=(layout.num_views, views),
        arrays=tuple(array.name for array in manifest.arrays),
        units=(0, layout.num_units),
    )
    return replace(
        manifest,
        layout=replace(layout, num_views=views),
        generations=(*manifest.generations, generation),
    )


def _new_arrays(
    experiment: Experiment, manifest: Manifest, targets: Sequence[str]
) -> list[ArraySpec]:
    held = {array.name: array for array in manifest.arrays}
    wanted = {name for target in targets for name in ARRAYS_OF_TARGET[target]}
    planned = plan_targets(experiment, num_classes=len(manifest.class_names)).arrays
    new = []
    for array in planned:
        if array.name not in wanted or held.get(array.name) == array:
            continue
        if array.name in held:
            raise CacheError(
                f"The cache holds {array.name} as {array_in_words(held[array.name])}, the "
                f"experiment asks for {array_in_words(array)}. One encoding of a target fits into "
                "a cache: change the experiment back, or write another cache."
            )
        new.append(array)
    return new


def _with_arrays(manifest: Manifest, new: Sequence[ArraySpec]) -> Manifest:
    generation = Generation(
        number=len(manifest.generations) + 1,
        views=(0, manifest.layout.num_views),
        arrays=tuple(array.name for array in new),
        units=(0, manifest.layout.num_units),
    )
    return replace(
        manifest,
        arrays=(*manifest.arrays, *new),
        generations=(*manifest.generations, generation),
    )
