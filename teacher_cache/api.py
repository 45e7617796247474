"""Stage one for Python programs."""

import os
from pathlib import Path
from typing import Any, Literal

from reskd.common.dataset.index import read_index
from reskd.common.devices import choose_device, choose_devices
from reskd.common.experiment import Experiment
from reskd.common.prefetch import num_cores
from reskd.teacher_cache.fill.cluster import ray_options
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.fill.slices import Slice
from reskd.teacher_cache.format.layout import MEMORY_GB
from reskd.teacher_cache.format.plan import plan_cache


def cache_teacher(
    experiment: Experiment,
    cache: str | os.PathLike[str],
    *,
    split: str | None = None,
    memory_gb: float = MEMORY_GB,
    max_bad: float | None = None,
    threads: int | None = None,
    device: str = "auto",
    devices: str | None = None,
    force: bool = False,
    part: str | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Run the teacher once over every stored view of every video and keep its outputs.

    Called again after it was stopped, it goes on with the units that are missing. Per view the
    store holds, for V views, N videos, T frames and K classes: `logits` (V, N, K), `features`
    (V, N, T, C, h, w) on the student's grid, the student's `frames` (V, N, T, 3, s, s) uint8 and
    the `views` (V, N, T + 8) themselves, as far as the experiment's `targets` ask for them; see
    `CacheReader`.

    Args:
        experiment: What `load_experiment` gives.
        cache: Folder to write, or of a cache of this experiment that is not finished.
        split: Split of the index; None takes data.train_split.
        memory_gb: GB that units may take in memory; decides how many videos a unit has.
        max_bad: Share of unreadable videos at which to stop, 0 to 1; None takes data.max_bad.
        threads: That decode; None takes one per core.
        device: auto, cpu, cuda or cuda:N.
        devices: Instead of `device` a process on each of several: `cuda:0,cuda:1`; `cuda` is all,
            `cpu:2` two on the CPU. The calling program then needs `if __name__ == "__main__":`.
        force: Start even if the disk looks too small.
        part: Slice to fill, `3/16` for the third of 16; None fills all.
        engine: `ray` has a worker for each GPU of a cluster; `device` is that of its nodes then,
            `threads` the CPUs of a worker.
        ray_address: host:port of the cluster's head; None takes RAY_ADDRESS, else starts a Ray on
            this machine and ends it.

    Returns:
        Facts about the cache: cache, fingerprint, split, videos, views, units, units_written,
        units_missing (0 unless a slice was filled), bytes and failed_videos.

    Raises:
        ValueError: If `part` is no slice.
        DataError: If the index, the split or the teacher's checkpoint is missing or does not fit.
        CacheError: If the folder holds something else.
        LaunchError: If the cluster cannot be reached.
        StoppedShortError: If too many videos are unreadable or the disk is too small; what was
            committed is kept.
        PreemptedError: If SIGTERM or SIGUSR1 asked to stop.
    """
    plan = plan_cache(
        experiment,
        read_index(experiment.data.index),
        memory_bytes=int(memory_gb * 1e9),
        split=split,
    )
    workers = () if devices is None else choose_devices(devices)
    ray = None
    if engine == "ray":
        ray = ray_options(ray_address, device, threads)
        device = "cpu" if ray.device == "cpu" else "auto"
    options = RunOptions(
        max_bad=experiment.data.max_bad if max_bad is None else max_bad,
        threads=threads or num_cores(),
        device=workers[0] if workers else choose_device(device),
        devices=workers,
        force=force,
        part=None if part is None else Slice.parse(part),
        ray=ray,
    )
    return run_cache_teacher(experiment, plan, Path(cache).absolute(), options)
