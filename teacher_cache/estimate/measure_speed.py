"""How fast this machine decodes, runs the teacher and writes: the real work for some seconds.

The engine fills temporary caches (probe.py), cut down in videos and if need be in views, until a
time limit, and its own meters say where the time went. Three things happen at once there: threads
decode ahead, the calling thread runs the teacher and encodes, another thread writes; so a run takes
as long as the slowest of the three. On a CPU they share its cores, which is why they are measured
beside each other. Two runs, or three:

1. one view of each video: what a step with a live teacher decodes and computes;
2. all views, as many videos to a unit as the cache will have if these take no longer than a part of
   the limit. Whichever of decoding and teacher is slower gets all of the time between two videos,
   the moments in which it waits for the other included;
3. only where the teacher is too slow to be shown all views: decoding them all, without a teacher.

Files read for the first time come from the disk, as in the run; measured again, they come from
memory.
"""

import time
from pathlib import Path

import torch

from reskd.common.dataset.index import VideoIndex
from reskd.common.experiment import Experiment
from reskd.common.signals import preemptible
from reskd.teacher_cache.estimate.hours import MeasuredSpeed
from reskd.teacher_cache.estimate.probe import Preprocess, prepared_probe
from reskd.teacher_cache.format.plan import CachePlan

UNITS_PER_RUN = 4
"""Wanted at least in the time of a run."""


def measure_speed(
    experiment: Experiment,
    index: VideoIndex,
    plan: CachePlan,
    *,
    parent: Path,
    device: torch.device,
    threads: int,
    preprocess: Preprocess = "cpu",
    seconds: float = 10.0,
) -> MeasuredSpeed:
    """Measure this machine on some videos, drawn from all of the split.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        plan: What is to be written.
        parent: Existing folder on the disk of the cache; a temporary folder in it is removed again
            whatever happens.
        device: Where the teacher runs.
        threads: Threads that decode.
        preprocess: Who crops and resizes.
        seconds: Time limit; the units begun before it are finished.

    Raises:
        CannotMeasureError: If no video can be read, or nothing can be written to the folder.
        DataError: If the teacher's checkpoint is missing or does not fit.
    """
    start = time.perf_counter()
    with (
        preemptible(),
        prepared_probe(
            experiment,
            index,
            plan,
            parent=parent,
            device=device,
            threads=threads,
            preprocess=preprocess,
        ) as probe,
    ):
        arrays, planned = probe.arrays, probe.planned_views
        one = many = probe.run(
            arrays,
            1,
            seconds=seconds if planned == 1 else seconds / 4,
            unit_videos=probe.group + threads + 1,
        )
        unit_seconds = seconds / 2 / UNITS_PER_RUN
        views = max(1, min(planned, int(unit_seconds / probe.group / one.teacher_seconds)))
        if views > 1:
            many = probe.run(
                arrays,
                views,
                seconds=seconds * (3 / 4 if views == planned else 1 / 2),
                unit_videos=unit_seconds / max(one.decode_seconds, views * one.teacher_seconds),
            )
        decode, teaching = many.shares
        if views < planned:
            own = [array for array in arrays if array.name == "views"]
            alone = probe.run(own, planned, seconds=seconds / 4, unit_videos=2 * threads)
            decode = alone.decode_seconds
    return MeasuredSpeed(
        start_seconds=probe.start_seconds,
        decode_seconds_per_video=decode,
        teacher_seconds_per_clip=teaching / views,
        forward_seconds_per_clip=many.steady.forward_seconds / max(1, many.steady.clips),
        view_seconds=one.decode_seconds,
        write_bytes_per_second=many.whole.bytes / many.whole.write_seconds,
        processor_seconds_per_video=many.processor_seconds / many.whole.videos * planned / views,
        stored_fraction=many.stored_fraction,
        videos_probed=len(probe.seen),
        views_probed=views,
        unreadable=probe.unreadable,
        seconds=time.perf_counter() - start,
    )
