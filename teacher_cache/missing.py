"""What a cache lacks, planned and computed: the one way in which stage two runs the teacher."""

from pathlib import Path

import torch

from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import read_checkpoint_info
from reskd.common.models.checkpoint_record import CONFIG_FILE
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.fill.opening import cache_of, is_new
from reskd.teacher_cache.fill.slices import Slice
from reskd.teacher_cache.format.commits import missing_units
from reskd.teacher_cache.format.layout import MEMORY_GB
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.format.plan import CachePlan, plan_cache, still_missing


def lacks_units(folder: Path) -> bool:
    """Whether `cache-teacher` would have something to do there.

    Raises:
        CacheError: If the folder holds something else than a cache, or a damaged one.
    """
    if is_new(folder):
        return True
    manifest = read_manifest(folder)
    return any(missing_units(folder, manifest, one) for one in manifest.generations)


def plan_missing(experiment: Experiment, folder: Path) -> CachePlan | None:
    """What `compute_missing` would do; None where nothing is missing.

    Raises:
        CacheError: If the folder holds something that `cache-teacher` would refuse.
        DataError: If the index is missing or the teacher's checkpoint is damaged.
    """
    if not lacks_units(folder):
        return None
    index = read_index(experiment.data.index)
    return less_what_is_there(experiment, index, _plan(experiment, index), folder)


def compute_missing(
    experiment: Experiment,
    folder: Path,
    *,
    max_bad: float,
    threads: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Do what `cache-teacher` does, if anything is missing; the cache is made where there is none.

    Args:
        experiment: Resolved experiment.
        folder: Of the cache.
        max_bad: Share of unreadable videos at which to stop.
        threads: That decode.
        device: Where the teacher runs.
        rank: Number of this process among those that do this together; each fills a slice.
        world: How many they are.

    Raises:
        CacheError, DataError, PreemptedError, StoppedShortError: As of `cache-teacher`.
    """
    if not lacks_units(folder):
        return
    options = RunOptions(
        max_bad=max_bad,
        threads=threads,
        device=device,
        force=False,
        part=Slice(rank + 1, world) if world > 1 else None,
    )
    plan = _plan(experiment, read_index(experiment.data.index))
    run_cache_teacher(experiment, plan, folder, options)


def less_what_is_there(
    experiment: Experiment, index: VideoIndex, plan: CachePlan, folder: Path
) -> CachePlan:
    """A plan, less what a folder holds already; the teacher need not be at hand.

    Raises:
        CacheError: If the folder holds something that `cache-teacher` would refuse.
        DataError: If the teacher's checkpoint is damaged.
    """
    if is_new(folder):
        return plan
    checkpoint = None
    if (experiment.teacher.checkpoint / CONFIG_FILE).exists():
        checkpoint = read_checkpoint_info(experiment.teacher.checkpoint)
    manifest, _ = cache_of(experiment, index, folder, plan, checkpoint)
    missing = [missing_units(folder, manifest, one) for one in manifest.generations]
    return still_missing(plan, manifest, missing)


def _plan(experiment: Experiment, index: VideoIndex) -> CachePlan:
    return plan_cache(experiment, index, memory_bytes=int(MEMORY_GB * 1e9))
