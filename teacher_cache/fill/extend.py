"""Add views or targets to a cache; what is there stays as it is, byte for byte."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.arrays import ArraySpec
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
from reskd.common.signals import preemptible
from reskd.teacher_cache.fill.engine import check_free_space, fill, missing_units, summary
from reskd.teacher_cache.fill.job import RunOptions, job_on_cache, teacher_for
from reskd.teacher_cache.fill.writer import sole_writer, write_metadata
from reskd.teacher_cache.format.manifest import Generation, Manifest

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
    views: int | None,
    targets: Sequence[str],
    options: RunOptions,
) -> dict[str, Any]:
    """Add views, then targets, each in one run over all units.

    An extension that was stopped is finished first; the same command again goes on. Until a run is
    complete, readers see the cache as it was before it.

    Args:
        experiment: The one the cache was written for; may say how new targets are encoded.
        folder: The cache.
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
    job, manifest, model = job_on_cache(experiment, folder, options)
    with sole_writer(folder), preemptible():
        if missing_units(folder, manifest, manifest.generations[0]):
            raise StoppedShortError(
                f"{folder} is incomplete; run `reskd cache-teacher` again to finish it first."
            )
        written = 0
        for generation in manifest.generations[1:]:
            teacher = teacher_for(experiment, model, manifest, options.device)
            missing = missing_units(folder, manifest, generation)
            written += fill(job, manifest, generation, missing, teacher)
        for larger in _steps(experiment, job.index, manifest, views, targets):
            generation = larger.generations[-1]
            if not options.force:
                check_free_space(folder, larger.generation_bytes(generation))
            manifest = write_metadata(folder, larger)
            teacher = teacher_for(experiment, model, manifest, options.device)
            units = range(manifest.layout.num_units)
            written += fill(job, manifest, generation, units, teacher)
    return summary(folder, manifest, written)


def _steps(
    experiment: Experiment,
    index: VideoIndex,
    manifest: Manifest,
    views: int | None,
    targets: Sequence[str],
) -> list[Manifest]:
    steps = []
    if views is not None and views != manifest.layout.num_views:
        manifest = _with_views(manifest, views)
        steps.append(manifest)
    new = _new_arrays(experiment, index, manifest, targets)
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
    )
    return replace(
        manifest,
        layout=replace(layout, num_views=views),
        generations=(*manifest.generations, generation),
    )


def _new_arrays(
    experiment: Experiment, index: VideoIndex, manifest: Manifest, targets: Sequence[str]
) -> list[ArraySpec]:
    held = {array.name: array for array in manifest.arrays}
    wanted = {name for target in targets for name in ARRAYS_OF_TARGET[target]}
    planned = plan_targets(experiment, num_classes=len(index.classes)).arrays
    new = []
    for array in planned:
        if array.name not in wanted or held.get(array.name) == array:
            continue
        if array.name in held:
            raise CacheError(
                f"The cache holds {array.name} as {held[array.name]}, the experiment asks for "
                f"{array}. One encoding of a target fits into a cache: change the experiment back, "
                "or write another cache."
            )
        new.append(array)
    return new


def _with_arrays(manifest: Manifest, new: Sequence[ArraySpec]) -> Manifest:
    generation = Generation(
        number=len(manifest.generations) + 1,
        views=(0, manifest.layout.num_views),
        arrays=tuple(array.name for array in new),
    )
    return replace(
        manifest,
        arrays=(*manifest.arrays, *new),
        generations=(*manifest.generations, generation),
    )
