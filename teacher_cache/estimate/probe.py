"""The engine that fills caches, on temporary ones: what it counts while it does the real work.

Each run ends with the unit in which its time is up, and its first unit, in which threads and device
are still warming up, counts only if there is no other. Every object is hashed and synced before it
counts, so the system's page cache does not flatter.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import Literal

import torch

from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.arrays import ArraySpec
from reskd.common.distill.teacher import BATCH_GROUP, Teacher
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import check_teacher, load_checkpoint
from reskd.common.rng import keyed_generator
from reskd.common.storage.partial import clear_beside, partial_name
from reskd.teacher_cache.fill.computed import default_batch
from reskd.teacher_cache.fill.cut import MOST_THREADS
from reskd.teacher_cache.fill.job import Job, RunOptions
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.pipeline.fill_units import fill_units
from reskd.teacher_cache.fill.writer import create_cache
from reskd.teacher_cache.format.commits import bytes_by_array, failures, read_commits
from reskd.teacher_cache.format.identity import Identity, cache_identity
from reskd.teacher_cache.format.layout import CRC_BYTES, Layout
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.format.plan import CachePlan

UNIT_BYTES = 128_000_000
"""Largest unit that is written, unless a single video takes more."""
MOST_BYTES = 1_024_000_000
"""Of a temporary cache, with the same exception. Enough to leave a disk's own cache behind."""
SCRATCH = ".reskd-probe"
Preprocess = Literal["cpu", "device"]
"""Who crops and resizes."""


class CannotMeasureError(DataError):
    """There is nothing here to measure with; counts and bytes can be told all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRun:
    """What one run of the engine gave."""

    steady: FillMeters
    """Without its first unit, if there is another."""
    whole: FillMeters
    processor_seconds: float
    """Of the whole run, all threads together, and the processes that decode."""
    threads: int
    stored_fraction: dict[str, float]

    @property
    def video_seconds(self) -> float:
        """From one video to the next, apart from waiting for the writer."""
        return (self.steady.seconds - self._held) / self.steady.videos

    @property
    def _held(self) -> float:
        """Time in which the teacher's thread waited for the writer.

        It does where rows wait for the writer so long that it waits for them. Most of what these
        wait is no loss: the teacher goes on meanwhile.
        """
        return min(self.steady.hold_seconds, self.steady.stall_seconds)

    @property
    def decode_seconds(self) -> float:
        """What decoding alone would take from one video to the next."""
        return self.steady.decode_seconds / self.steady.videos / self.threads

    @property
    def teacher_seconds(self) -> float:
        """What teacher and encoding alone would take from one video to the next."""
        meters = self.steady
        working = meters.seconds - self._held - meters.wait_seconds
        # The stages count in threads of their own, not at quite the same moment.
        return max(meters.forward_seconds, working, 1e-6) / meters.videos

    @property
    def shares(self) -> tuple[float, float]:
        """Seconds per video of decoding and of the teacher; the slower one sets the pace."""
        decode, teacher = self.decode_seconds, self.teacher_seconds
        if decode > teacher or not self.steady.clips:
            return max(decode, self.video_seconds), teacher
        return decode, max(teacher, self.video_seconds)


@dataclass(kw_only=True, slots=True)
class Probe:
    """What all runs on one machine share."""

    job: Job
    """Its entries are the videos in the order in which they are tried, its folder is temporary."""
    plan: CachePlan
    identity: Identity
    teacher: Teacher
    arrays: Sequence[ArraySpec]
    """Those of the largest run that is still to be done."""
    planned_views: int
    """Views of every video in that run."""
    start_seconds: float
    """Loading the teacher, hashing the index."""
    most_bytes: int
    """Of a temporary cache."""
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

    @property
    def batch(self) -> int:
        """Clips that the teacher sees at once."""
        return BATCH_GROUP if self.job.grouped else default_batch(self.teacher.device)

    def run(
        self, arrays: Sequence[ArraySpec], views: int, *, seconds: float, unit_videos: float
    ) -> ProbeRun:
        """Fill a cache of these arrays with some views of videos until the time is up.

        Args:
            arrays: Of the cache.
            views: Of every video.
            seconds: Time limit, checked after each unit.
            unit_videos: Wanted size of units, which may become smaller.

        Raises:
            CannotMeasureError: If none of the videos can be read.
        """
        manifest = self.make_cache(arrays, views, unit_videos)
        entries = list(self.job.entries.values())
        order = entries[self.tried :] + entries[: self.tried]
        options = self.job.options
        if not self.job.grouped:
            # A batch is filled up: a unit of fewer clips would take as long as one of many.
            unit_clips = manifest.layout.unit_videos * views
            options = replace(options, batch_clips=min(self.batch, unit_clips))
        job = replace(self.job, entries=dict(enumerate(order)), options=options)
        marks: list[FillMeters] = []
        meters, processor = FillMeters(), time.process_time()
        deadline = time.perf_counter() + seconds

        def units() -> Iterator[int]:
            for unit in range(manifest.layout.num_units):
                yield unit
                if time.perf_counter() > deadline:
                    return

        fill_units(
            job,
            manifest,
            manifest.generations[0],
            units(),
            self.teacher,
            meters=meters,
            on_unit=lambda unit: marks.append(replace(meters)),
        )
        elsewhere = meters.decode_seconds if job.options.threads > MOST_THREADS else 0.0
        fractions = self._note(job, manifest)
        steady = marks[-1].since(marks[0]) if len(marks) > 1 else marks[-1]
        return ProbeRun(
            steady=steady if steady.videos else marks[-1],
            whole=meters,
            processor_seconds=time.process_time() - processor + elsewhere,
            threads=job.options.threads,
            stored_fraction=fractions,
        )

    def make_cache(self, arrays: Sequence[ArraySpec], views: int, wanted: float) -> Manifest:
        """An empty cache whose units hold as many videos as wanted, planned and allowed."""
        plan, videos = self.plan, len(self.job.entries)
        video_bytes = views * sum(array.row_bytes + CRC_BYTES for array in arrays)
        fitting = int(min(wanted, UNIT_BYTES / video_bytes, self.most_bytes / video_bytes))
        # Whole batches, as large units nearly are: a short batch takes as long as a full one.
        whole = self.batch // gcd(self.batch, views)
        together = whole if not self.job.grouped and fitting >= whole else self.group
        unit_videos = min(plan.layout.unit_videos, max(1, fitting // together) * together)
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
        commits = read_commits(job.folder, generation.number, range(layout.num_units))
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
            for array in manifest.stored_arrays
        }


@contextmanager
def prepared_probe(
    experiment: Experiment,
    index: VideoIndex,
    plan: CachePlan,
    *,
    parent: Path,
    device: torch.device,
    threads: int,
    preprocess: Preprocess = "cpu",
    most_bytes: int = MOST_BYTES,
) -> Iterator[Probe]:
    """The teacher loaded, the videos mixed, and a folder that is gone afterwards.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        plan: Of its cache.
        parent: Existing folder on the disk of the cache.
        device: Where the teacher runs.
        threads: Threads that decode.
        preprocess: Who crops and resizes.
        most_bytes: Of a temporary cache, and at most an eighth of what is free there.

    Raises:
        CannotMeasureError: If nothing can be written to the folder.
        DataError: If the teacher's checkpoint is missing or does not fit.
    """
    start = time.perf_counter()
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    check_teacher(experiment, checkpoint, index.classes)
    identity = cache_identity(experiment, split=plan.split, teacher=checkpoint)
    arrays, planned = _to_measure(plan)
    names = {array.name for array in arrays}
    logit_map = any(name.startswith("logit_map") for name in names)
    teacher = Teacher(
        model,
        device,
        mode=experiment.teacher.mode,
        precision=experiment.teacher.precision,
        logit_map=logit_map,
    )
    start_seconds = time.perf_counter() - start
    videos = index.split(plan.split)
    order = keyed_generator(experiment.views.seed, "probe").permutation(len(videos))
    with _scratch(parent) as scratch:
        yield Probe(
            job=Job(
                experiment=experiment,
                index=index,
                entries={place: videos[number] for place, number in enumerate(order)},
                folder=scratch / "cache",
                options=RunOptions(
                    max_bad=1.0,
                    threads=threads,
                    device=device,
                    force=True,
                    preprocess=preprocess,
                ),
            ),
            plan=plan,
            identity=identity,
            teacher=teacher,
            arrays=arrays,
            planned_views=planned,
            start_seconds=start_seconds,
            most_bytes=min(most_bytes, shutil.disk_usage(parent).free // 8),
        )


def existing_folder(cache: Path | None) -> Path:
    """The folder that a cache will lie in, or the nearest above it that exists.

    None stands for the current folder.
    """
    folder = Path.cwd() if cache is None else cache.absolute().parent
    return next(path for path in (folder, *folder.parents) if path.is_dir())


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
        clear_beside(parent)
        folder = partial_name(parent / SCRATCH)
        folder.mkdir()
    except OSError as error:
        raise CannotMeasureError(f"nothing can be written to {parent}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
