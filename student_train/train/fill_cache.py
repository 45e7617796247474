"""Stage one before the first step: what a student's cache lacks is computed, then forgotten."""

import gc
import time
from pathlib import Path
from typing import Any, Final, Literal

import torch

from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment
from reskd.common.signals import preemptible
from reskd.student_train.distributed import ProcessGroup, own_cores
from reskd.teacher_cache.missing import compute_missing, lacks_units, plan_missing

_SECONDS_TO_BE_SEEN: Final = 120
"""A shared folder may show other machines what this one has written that much later."""


def check_fillable(
    cache: Path | None, *, teacher: Literal["cached", "live"], allow_incomplete: bool
) -> Path:
    """The cache to fill, its full path.

    Raises:
        ExperimentError: If there is none to fill, or it is not to be filled.
    """
    if cache is None:
        raise ExperimentError(
            "--on-missing compute fills a cache before training: name its folder with --cache."
        )
    if teacher == "live":
        raise ExperimentError(
            "--on-missing compute fills a cache with the teacher's outputs, and --teacher live "
            "computes them in every step instead; choose one of the two."
        )
    if allow_incomplete:
        raise ExperimentError(
            "--on-missing compute fills what the cache lacks, and --allow-incomplete trains "
            "without it; choose one of the two."
        )
    return cache.absolute()


def plan_filling(experiment: Experiment, cache: Path) -> dict[str, Any]:
    """What would be computed before the first step; for JSON.

    Raises:
        CacheError, DataError: As of `cache-teacher`.
    """
    plan = plan_missing(experiment, cache)
    if plan is None:
        return {"units": 0, "videos": 0, "teacher_clips": 0, "bytes": 0}
    work = plan.work
    return {
        "units": work.units,
        "videos": work.videos,
        "teacher_clips": work.clips,
        "bytes": sum(work.bytes_by_array.values()),
    }


def fill_cache(
    experiment: Experiment, cache: Path, processes: ProcessGroup, *, max_bad: float
) -> None:
    """Run the teacher for all that a cache lacks, each process for a slice; nothing of it stays.

    Raises:
        CacheError: If the folder holds something else, or videos of the index have no row there.
        DataError: If the teacher's checkpoint is missing or does not fit.
        StoppedShortError: If too many videos are unreadable, the disk is too small, or another
            process of this run failed; what was committed is kept.
        PreemptedError: If a signal asked to stop.
    """
    with preemptible(), processes.apart():
        compute_missing(
            experiment,
            cache,
            max_bad=max_bad,
            threads=own_cores(),
            device=processes.device,
            rank=processes.rank,
            world=processes.world,
        )
    _wait_until_seen(cache)
    gc.collect()  # the teacher's modules refer to each other
    if processes.device.type == "cuda":
        torch.cuda.empty_cache()


def _wait_until_seen(cache: Path) -> None:
    """Whether that is enough is found out when the cache is opened."""
    end = time.monotonic() + _SECONDS_TO_BE_SEEN
    while lacks_units(cache) and time.monotonic() < end:
        time.sleep(1)
