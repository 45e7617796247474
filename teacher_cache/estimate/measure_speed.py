"""How fast this machine decodes, answers and writes: a minute of the real work, then nothing left.

Three things happen at once in stage one: threads decode ahead, the calling thread asks the teacher
and encodes what it says, and another thread writes. So a run takes as long as the slowest of the
three. On a CPU they also share its cores, and each is slower beside the others than by itself:
maxima of times that were measured separately would promise too much. Therefore:

1. decoding is timed alone, with as many threads as the run will have;
2. the pipeline is run as stage one runs it, unit by unit into a cache of its own, on other videos.
   The calling thread's busy time is what the teacher costs. Where it had to wait for videos for
   more than WAITING of the time, decoding set the pace, and its cost is the whole time per video;
3. one unit is written over and over. Every object is hashed and fsynced before it counts, as in the
   run, so the system's page cache does not flatter; SUSTAINED_BYTES or the time allowed, whichever
   comes first, are enough to leave a disk's own cache behind or to measure what it costs to sync
   many small files.

Each part ends at a time limit, so a probe takes seconds. Files read for the first time come from
the disk, as in the run; probed again, they come from memory.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.arrays import ArraySpec
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import check_teacher, load_checkpoint
from reskd.common.rng import keyed_generator
from reskd.common.signals import preemptible
from reskd.teacher_cache.estimate.probe_parts import (
    Bench,
    CannotProbeError,
    Stopwatch,
    bearable_views,
    decoding,
    pipeline,
    writing,
)
from reskd.teacher_cache.fill.compute import Request
from reskd.teacher_cache.fill.writer import create_cache
from reskd.teacher_cache.format.identity import cache_identity
from reskd.teacher_cache.format.layout import CRC_BYTES, Layout
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.format.plan import CachePlan

LIMIT_SECONDS = 120.0
"""No part is begun or gone on with after this time."""
WAITING = 0.05
"""Share of its time that the teacher may wait before decoding is said to set the pace."""
UNIT_BYTES = 128_000_000
"""Largest unit that the probe writes, and at most an eighth of what is free on the disk; two of
them lie there at once."""
PREFIX = ".reskd-probe-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What was measured."""

    start_seconds: float
    """Once per run: loading the teacher, hashing the index, making an empty cache."""
    decode_seconds_per_video: float
    """Decode a video and cut all its views; the time between two videos, however many threads."""
    teacher_seconds_per_clip: float
    """Teacher, encoding and checksums, in the running pipeline."""
    forward_seconds_per_clip: float
    """Of these the teacher's alone: what it would cost beside a student."""
    view_seconds: float
    """Decode a video for one view only; the time between two videos."""
    write_bytes_per_second: float
    """Hashed, written and synced."""
    stored_fraction: dict[str, float]
    """By array: bytes on disk over planned bytes; 1 without a codec."""
    videos_probed: int
    """Different videos that were decoded."""
    views_probed: int
    """Views per video shown to the teacher; less than planned where it is very slow."""
    unreadable: dict[str, str]
    """Videos that were passed over, by id, with the reason."""
    seconds: float
    """Time the probe took."""


def probe(
    experiment: Experiment,
    index: VideoIndex,
    plan: CachePlan,
    *,
    parent: Path,
    device: torch.device,
    threads: int,
    part_seconds: float = 4.0,
) -> Probe:
    """Measure this machine on a few videos, drawn from all of the split.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        plan: What is to be written.
        parent: Existing folder on the disk of the cache; a temporary folder in it is removed again
            whatever happens.
        device: Where the teacher runs.
        threads: Videos decoded ahead.
        part_seconds: Time for each of decoding and pipeline; decoding one view and writing get half
            of it. All of it ends after LIMIT_SECONDS, a video that is being answered excepted.

    Raises:
        CannotProbeError: If no video can be read, or nothing can be written to the folder.
        DataError: If the teacher's checkpoint is missing or does not fit.
    """
    start = time.perf_counter()
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    check_teacher(experiment, checkpoint, index)
    identity = cache_identity(
        experiment, index, split=plan.split, weights_sha256=checkpoint.weights_sha256
    )
    arrays, views = _to_measure(plan)
    names = {array.name for array in arrays}
    map_asked = any(name.startswith("logit_map") for name in names)
    teacher = Stopwatch(model, device, mode=experiment.teacher.mode, logit_map=map_asked)
    videos = index.split(plan.split)
    order = keyed_generator(experiment.views.seed, "probe").permutation(len(videos))
    with preemptible(), _scratch(parent) as scratch:
        folder = scratch / "cache"
        targets = replace(plan.targets, arrays=arrays)
        layout = _probe_layout(plan, arrays, views, shutil.disk_usage(parent).free)
        create_cache(folder, identity=identity, plan=targets, layout=layout, codec=plan.codec)
        bench = Bench(
            request=Request(
                experiment=experiment,
                index=index,
                plan=targets,
                views=views,
                known_failures={},
                threads=threads,
            ),
            entries=[videos[number] for number in order],
            manifest=read_manifest(folder),
            folder=folder,
            grouped=experiment.teacher.mode == "batch",
            part_seconds=part_seconds,
            deadline=start + LIMIT_SECONDS,
        )
        start_seconds = time.perf_counter() - start
        return _measure(bench, None if names <= FROM_VIDEO_ALONE else teacher, start, start_seconds)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards.

    Raises:
        CannotProbeError: If it cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent)
    except OSError as error:
        raise CannotProbeError(f"nothing can be written to {parent}: {error.strerror}") from error
    with folder as name:
        yield Path(name)


def _measure(bench: Bench, teacher: Stopwatch | None, start: float, start_seconds: float) -> Probe:
    alone = decoding(bench, bench.request, bench.part_seconds)
    one_view = replace(bench.request, views=bench.request.views[:1])
    view_seconds = decoding(bench, one_view, bench.part_seconds / 2)
    views = bench.request.views[: bearable_views(bench, teacher)]
    meter, rows = pipeline(bench, teacher, views)
    # With fewer views than planned the pipeline says nothing about the time of decoding them all.
    paced = views == bench.request.views and meter.waited > WAITING * meter.total
    speed, stored = writing(bench, rows)
    return Probe(
        start_seconds=start_seconds,
        decode_seconds_per_video=max(alone, meter.total / meter.videos if paced else 0.0),
        teacher_seconds_per_clip=(meter.total - meter.waited) / meter.videos / len(views),
        forward_seconds_per_clip=teacher.seconds / teacher.clips if teacher else 0.0,
        view_seconds=view_seconds,
        write_bytes_per_second=speed,
        stored_fraction=stored,
        videos_probed=len(bench.seen),
        views_probed=len(views),
        unreadable=bench.unreadable,
        seconds=time.perf_counter() - start,
    )


def _to_measure(plan: CachePlan) -> tuple[tuple[ArraySpec, ...], range]:
    """Arrays and views of the largest run that is still to be done; of the first if none is."""
    largest = max(plan.todo, key=lambda todo: len(todo.units) * len(todo.generation.view_range))
    names = set(largest.generation.arrays)
    arrays = tuple(array for array in plan.targets.arrays if array.name in names)
    return arrays, largest.generation.view_range


def _probe_layout(plan: CachePlan, arrays: Sequence[ArraySpec], views: range, free: int) -> Layout:
    """One unit as stage one writes it, or as many of its videos as the probe may write."""
    row_bytes = sum(array.row_bytes + CRC_BYTES for array in arrays)
    fitting = max(1, min(UNIT_BYTES, free // 8) // (row_bytes * len(views)))
    videos = min(plan.layout.unit_videos, fitting)
    return Layout(
        num_views=len(views),
        block_views=min(plan.layout.block_views, len(views)),
        num_videos=videos,
        unit_videos=videos,
    )
