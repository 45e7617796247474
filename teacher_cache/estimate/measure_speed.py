"""How fast this machine decodes, runs the teacher and writes: the real work for some seconds.

The engine that fills caches fills temporary ones, cut down in videos and if need be in views, until
a time limit, and its own meters say where the time went. Three things happen at once there: threads
decode ahead, the calling thread runs the teacher and encodes, another thread writes; so a run takes
as long as the slowest of the three. On a CPU they share its cores, which is why they are measured
beside each other. Two runs, or three:

1. one view of each video: what a step with a live teacher decodes and computes;
2. all views, as many videos to a unit as the cache will have if these take no longer than a part of
   the limit. Whichever of decoding and teacher is slower gets all of the time between two videos,
   the moments in which it waits for the other included;
3. only where the teacher is too slow to be shown all views: decoding them all, without a teacher.

Each run ends with the unit in which its time is up, and its first unit, in which threads and device
are still warming up, counts only if there is no other. Every object is hashed and synced before it
counts, so the system's page cache does not flatter. Files read for the first time come from the
disk, as in the run; measured again, they come from memory.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.arrays import ArraySpec
from reskd.common.distill.teacher import BATCH_GROUP, Teacher
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import check_teacher, load_checkpoint
from reskd.common.rng import keyed_generator
from reskd.common.signals import preemptible
from reskd.teacher_cache.estimate.hours import MeasuredSpeed
from reskd.teacher_cache.fill.engine import fill_units
from reskd.teacher_cache.fill.job import Job, RunOptions
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.writer import create_cache
from reskd.teacher_cache.format.commits import bytes_by_array, failures, read_commits
from reskd.teacher_cache.format.identity import Identity, cache_identity
from reskd.teacher_cache.format.layout import CRC_BYTES, Layout
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.format.plan import CachePlan

UNIT_BYTES = 128_000_000
"""Largest unit that is written, unless a single video takes more."""
MOST_BYTES = 1_024_000_000
"""Of a temporary cache, and at most an eighth of what is free on the disk; with the same exception.
Enough to leave a disk's own cache behind."""
UNITS_PER_RUN = 4
"""Wanted at least in the time of a run."""
PREFIX = ".reskd-probe-"


class CannotMeasureError(DataError):
    """There is nothing here to measure with; counts and bytes can be told all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What one run of the engine gave."""

    steady: FillMeters
    """Without its first unit, if there is another."""
    whole: FillMeters
    threads: int
    stored_fraction: dict[str, float]

    @property
    def video_seconds(self) -> float:
        """From one video to the next, apart from waiting for the writer."""
        return (self.steady.seconds - self.steady.stall_seconds) / self.steady.videos

    @property
    def decode_seconds(self) -> float:
        """What decoding alone would take from one video to the next."""
        return self.steady.decode_seconds / self.steady.videos / self.threads

    @property
    def teacher_seconds(self) -> float:
        """What teacher and encoding alone would take from one video to the next."""
        return self.video_seconds - self.steady.wait_seconds / self.steady.videos

    @property
    def shares(self) -> tuple[float, float]:
        """Seconds per video of decoding and of the teacher; the slower one sets the pace."""
        decode, teacher = self.decode_seconds, self.teacher_seconds
        if decode > teacher or not self.steady.clips:
            return self.video_seconds, teacher
        return decode, self.video_seconds


@dataclass(kw_only=True, slots=True)
class _Bench:
    """What all runs share."""

    job: Job
    """Its entries are the videos in the order in which they are tried, its folder is temporary."""
    plan: CachePlan
    identity: Identity
    teacher: Teacher
    most_bytes: int
    tried: int = 0
    """Videos taken so far; each run goes on where the one before it stopped."""
    seen: set[str] = field(default_factory=set)
    """Ids of the videos that could be read."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Ids of the others, with the reason."""

    @property
    def group(self) -> int:
        """Videos that the teacher sees together."""
        return BATCH_GROUP if self.job.grouped else 1

    def run(
        self, arrays: Sequence[ArraySpec], views: int, *, seconds: float, unit_videos: float
    ) -> _Run:
        """Fill a cache of these arrays with some views of videos until the time is up.

        Args:
            arrays: Of the cache.
            views: Of every video.
            seconds: Time limit, checked after each unit.
            unit_videos: Wanted size of units, which may become smaller.

        Raises:
            CannotMeasureError: If none of the videos can be read.
        """
        manifest = self._make_cache(arrays, views, unit_videos)
        order = self.job.entries[self.tried :] + self.job.entries[: self.tried]
        job = replace(self.job, entries=order)
        marks: list[FillMeters] = []
        meters, deadline = FillMeters(), time.perf_counter() + seconds

        def units() -> Iterator[int]:
            for unit in range(manifest.layout.num_units):
                yield unit
                marks.append(replace(meters))  # it was handed to the writer
                if time.perf_counter() > deadline:
                    return

        fill_units(job, manifest, manifest.generations[0], units(), self.teacher, meters=meters)
        fractions = self._note(job, manifest)
        steady = marks[-1].since(marks[0]) if len(marks) > 1 else marks[-1]
        return _Run(
            steady=steady if steady.videos else marks[-1],
            whole=meters,
            threads=job.options.threads,
            stored_fraction=fractions,
        )

    def _make_cache(self, arrays: Sequence[ArraySpec], views: int, wanted: float) -> Manifest:
        """An empty cache whose units hold as many videos as wanted, planned and allowed."""
        plan, videos = self.plan, len(self.job.entries)
        video_bytes = views * sum(array.row_bytes + CRC_BYTES for array in arrays)
        fitting = int(min(wanted, UNIT_BYTES / video_bytes, self.most_bytes / video_bytes))
        groups = max(1, fitting // self.group)
        unit_videos = min(plan.layout.unit_videos, groups * self.group)
        units = max(1, self.most_bytes // (unit_videos * video_bytes))
        layout = Layout(
            num_views=views,
            block_views=views,
            num_videos=min(videos, units * unit_videos),
            unit_videos=unit_videos,
        )
        targets = replace(plan.targets, arrays=tuple(arrays))
        folder = self.job.folder
        shutil.rmtree(folder, ignore_errors=True)  # of the run before
        create_cache(folder, identity=self.identity, plan=targets, layout=layout, codec=plan.codec)
        return read_manifest(folder)

    def _note(self, job: Job, manifest: Manifest) -> dict[str, float]:
        """Note how the videos came out; gives each array's share of its planned bytes."""
        layout, generation = manifest.layout, manifest.generations[0]
        commits = read_commits(job.folder, generation.number, layout.num_units)
        failed = failures(commits.values())
        done = [video for unit in commits for video in layout.videos_of(unit)]
        self.tried = (self.tried + len(done)) % len(job.entries)
        self.unreadable |= {job.entries[video].id: reason for video, reason in failed.items()}
        self.seen |= {job.entries[video].id for video in done if video not in failed}
        if len(failed) == len(done):
            last, reason = list(self.unreadable.items())[-1]
            raise CannotMeasureError(
                f"none of {len(done)} videos can be read; the last one tried, {last}: {reason}"
            )
        stored = bytes_by_array(commits.values())
        return {
            array.name: stored[array.name]
            / sum(layout.unit_bytes(array, unit, generation.view_range) for unit in commits)
            for array in manifest.arrays
        }


def measure_speed(
    experiment: Experiment,
    index: VideoIndex,
    plan: CachePlan,
    *,
    parent: Path,
    device: torch.device,
    threads: int,
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
        threads: Videos decoded ahead.
        seconds: Time limit; the units begun before it are finished.

    Raises:
        CannotMeasureError: If no video can be read, or nothing can be written to the folder.
        DataError: If the teacher's checkpoint is missing or does not fit.
    """
    start = time.perf_counter()
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    check_teacher(experiment, checkpoint, index)
    identity = cache_identity(experiment, index, split=plan.split, teacher=checkpoint)
    arrays, planned = _to_measure(plan)
    names = {array.name for array in arrays}
    logit_map = any(name.startswith("logit_map") for name in names)
    teacher = Teacher(model, device, mode=experiment.teacher.mode, logit_map=logit_map)
    start_seconds = time.perf_counter() - start
    videos = index.split(plan.split)
    order = keyed_generator(experiment.views.seed, "probe").permutation(len(videos))
    with preemptible(), _scratch(parent) as scratch:
        job = Job(
            experiment=experiment,
            index=index,
            entries=tuple(videos[number] for number in order),
            folder=scratch / "cache",
            options=RunOptions(max_bad=1.0, threads=threads, device=device, force=True),
        )
        bench = _Bench(
            job=job,
            plan=plan,
            identity=identity,
            teacher=teacher,
            most_bytes=min(MOST_BYTES, shutil.disk_usage(parent).free // 8),
        )
        one = many = bench.run(
            arrays,
            1,
            seconds=seconds if planned == 1 else seconds / 4,
            unit_videos=bench.group + threads + 1,
        )
        unit_seconds = seconds / 2 / UNITS_PER_RUN
        views = max(1, min(planned, int(unit_seconds / bench.group / one.teacher_seconds)))
        if views > 1:
            many = bench.run(
                arrays,
                views,
                seconds=seconds * (3 / 4 if views == planned else 1 / 2),
                unit_videos=unit_seconds / max(one.decode_seconds, views * one.teacher_seconds),
            )
        decode, teaching = many.shares
        if views < planned:
            own = [array for array in arrays if array.name == "views"]
            alone = bench.run(own, planned, seconds=seconds / 4, unit_videos=2 * threads)
            decode = alone.decode_seconds
    return MeasuredSpeed(
        start_seconds=start_seconds,
        decode_seconds_per_video=decode,
        teacher_seconds_per_clip=teaching / views,
        forward_seconds_per_clip=many.steady.forward_seconds / max(1, many.steady.clips),
        view_seconds=one.decode_seconds,
        write_bytes_per_second=many.whole.bytes / many.whole.write_seconds,
        stored_fraction=many.stored_fraction,
        videos_probed=len(bench.seen),
        views_probed=views,
        unreadable=bench.unreadable,
        seconds=time.perf_counter() - start,
    )


def _to_measure(plan: CachePlan) -> tuple[list[ArraySpec], int]:
    """Arrays and number of views of the largest run that is still to be done, else of the first.

    A cache cannot do without `views`, so these come along with targets that are added to it.
    """
    largest = max(plan.todo, key=lambda todo: len(todo.units) * len(todo.generation.view_range))
    names = {*largest.generation.arrays, "views"}
    arrays = [array for array in plan.targets.arrays if array.name in names]
    return arrays, len(largest.generation.view_range)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder that is gone afterwards.

    Raises:
        CannotMeasureError: If it cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent)
    except OSError as error:
        raise CannotMeasureError(f"nothing can be written to {parent}: {error.strerror}") from error
    with folder as name:
        yield Path(name)
