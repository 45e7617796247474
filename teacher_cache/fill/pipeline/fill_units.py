"""Compute and commit units: the one function over a stream of units that every engine calls.

    threads that decode and cut      the calling thread             finisher                 writer
    -> videos, in order, ahead  -->  -> batches -> device     -->   waits for the device -->  files,
       over the borders of units     (teacher, encoding)            rows into the unit        record

Each stage works ahead of the next one by a bounded amount: decoding by `look_ahead` videos, the
device by BATCHES_AHEAD batches, the finisher by one unit. Who is slowest sets the pace.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import chain, cycle, islice
from typing import Final, ParamSpec

import torch

from reskd.common.console import say
from reskd.common.devices import failures_told, memory_has_ended
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import StoppedShortError
from reskd.common.prefetch import Follower
from reskd.common.worker_processes import worker_has_died
from reskd.teacher_cache.fill import cut
from reskd.teacher_cache.fill.batches import ClipBatch
from reskd.teacher_cache.fill.compute import begin_batch
from reskd.teacher_cache.fill.computed import default_batch
from reskd.teacher_cache.fill.cut import CPU, CutTask, CutVideo, cut_videos
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.pipeline.keeper import OnUnit, OnVideo, UnitKeeper
from reskd.teacher_cache.fill.pipeline.lanes import Lanes, Slot
from reskd.teacher_cache.fill.pipeline.on_device import on_device
from reskd.teacher_cache.fill.pipeline.units import UnitPlanner, UnitWork
from reskd.teacher_cache.fill.writer import BackgroundWriter
from reskd.teacher_cache.format.commits import Computed
from reskd.teacher_cache.format.manifest import Generation, Manifest
from reskd.teacher_cache.read.reader import CacheReader

P = ParamSpec("P")
BATCHES_AHEAD: Final = 3
"""Batches asked of the device and not finished: one goes there, one is computed, one comes back."""

FREE_MEMORY: Final = "Stop what else uses it, or name another --device"


def fill_units(
    job: Job,
    manifest: Manifest,
    generation: Generation,
    units: Iterable[int],
    teacher: Teacher,
    *,
    meters: FillMeters,
    again: Mapping[int, Computed | None] | None = None,
    on_video: OnVideo = lambda video, failure: None,
    on_unit: OnUnit = lambda unit: None,
) -> None:
    """Compute and commit units without checks or messages: `fill` less everything around it.

    Args:
        job: What, where and how.
        manifest: Of the cache.
        generation: The run.
        units: In order; asked for in the calling thread, ahead, when decoding has room for more.
        teacher: Runs in the calling thread.
        meters: Count what is done.
        again: Units that are computed again, and what their records say of how they were computed.
        on_video: Called after each video with its number and, if it was unreadable, the reason; in
            another thread. What it raises ends the run; units handed over before are committed.
        on_unit: Called in the same way with each unit that the writer has got.

    Raises:
        DataError: If the teacher said something that the number types on disk cannot hold.
        StoppedShortError: If the device fails, or its memory does not hold a single clip.
    """
    start = time.perf_counter()
    needed = {array.name for array in manifest.arrays_of(generation)} - FROM_VIDEO_ALONE

    def handed_over(unit: int) -> None:
        meters.seconds = time.perf_counter() - start
        on_unit(unit)

    with (
        _reader_of_views(job, generation) as reader,
        BackgroundWriter(job.folder, manifest, meters) as writer,
    ):
        keeper = UnitKeeper(
            job, manifest, generation, writer, meters, on_video=on_video, on_unit=handed_over
        )
        planner = UnitPlanner(
            job=job,
            manifest=manifest,
            generation=generation,
            teacher=teacher if needed else None,
            reader=reader,
            again=again or {},
        )
        try:
            with failures_told(job.options.device, memory=f"{FREE_MEMORY}, and run it again."):
                _fill_all(planner, iter(units), keeper, meters)
        finally:
            meters.seconds = time.perf_counter() - start


def _fill_all(
    planner: UnitPlanner, units: Iterator[int], keeper: UnitKeeper, meters: FillMeters
) -> None:
    """Fill units; where the device's memory ends, once more with half the batch from there on.

    Where a process that decodes has died, once more from the unit that it was at.
    """
    options = planner.job.options
    batch_clips = options.batch_clips or default_batch(options.device)
    died_after = -1
    while True:
        stream = _Stream(planner, units, batch_clips, keeper, meters)
        try:
            too_large = stream.run()
        except RuntimeError as error:
            if not worker_has_died(error):
                raise
            _require_another_try(error, again=len(keeper.handed_over) > died_after)
            died_after = len(keeper.handed_over)
        else:
            if too_large is None:
                return
            batch_clips = _smaller(too_large, options.device)
        keeper.forget()
        units = chain(stream.left_over, units)


def _require_another_try(error: RuntimeError, *, again: bool) -> None:
    """Say that a process has died and that its videos are decoded once more.

    Raises:
        StoppedShortError: If no unit was finished since the last one died.
    """
    what = str(error).splitlines()[0]
    if not again:
        raise StoppedShortError(
            f"A process that decodes was killed, and another one at the same videos ({what}). If "
            "the memory has ended, run the same command with fewer --threads: up to "
            f"{cut.MOST_THREADS} decode in this process; finished units are kept. A video that "
            "kills its decoder is found by `reskd dataset check`."
        ) from None
    say(f"a process that decodes was killed ({what}); its videos are decoded once more")


def _smaller(work: UnitWork, device: torch.device) -> int:
    """Half of a unit's batch.

    Raises:
        StoppedShortError: If it cannot be halved.
    """
    clips = 0 if work.computed is None or work.grouped else work.computed.batch_clips
    if clips < 2:
        what = "a single clip" if clips else "the clips that its record puts together"
        raise StoppedShortError(
            f"The memory of {device} does not hold {what} of unit {work.unit} for the teacher. "
            f"{FREE_MEMORY}, and run the same command again; finished units are kept."
        )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    say(
        f"the memory of {device} does not hold {clips} clips for the teacher; unit {work.unit} "
        f"once more with {clips // 2}"
    )
    return clips // 2


class _Stream:
    """One pass over units, with pools and buffers of its own."""

    def __init__(
        self,
        planner: UnitPlanner,
        units: Iterator[int],
        batch_clips: int,
        keeper: UnitKeeper,
        meters: FillMeters,
    ) -> None:
        self._planner, self._units, self._batch_clips = planner, units, batch_clips
        self._keeper, self._meters = keeper, meters
        self._targets = planner.manifest.plan_of(planner.generation)
        options = planner.job.options
        # Without a teacher nothing goes to the device.
        needs_device = planner.teacher is not None
        self._lanes = Lanes(options.device if needs_device else CPU)
        planned = {array.name for array in self._targets.arrays}
        self._student_size = self._targets.student_size if "frames" in planned else 0
        self._cut_there = options.preprocess == "device" and needs_device
        # One more than are on their way: who fills it may be sure that its last batch is finished.
        self._slots = cycle([Slot() for _ in range(BATCHES_AHEAD + 1)])
        self._begun: list[int] = []
        self._waiting: deque[UnitWork] = deque()

    @property
    def left_over(self) -> list[int]:
        """Units that were asked for and not handed to the writer."""
        return [unit for unit in self._begun if unit not in self._keeper.handed_over]

    def run(self) -> UnitWork | None:
        """Fill all units; ends early with the unit for whose batch the device has no memory."""
        with Follower(BATCHES_AHEAD, "finisher") as finisher, closing(self._cuts()) as cuts:
            timed = self._timed(cuts)
            while (first := next(timed, None)) is not None:
                work = self._waiting.popleft()
                own = chain((first,), islice(timed, len(work.tasks) - 1))
                try:
                    for batch in work.batches(self._readable(work, own, finisher)):
                        self._compute(work, batch, finisher)
                except RuntimeError as error:
                    if not memory_has_ended(error):
                        raise
                    finisher.wait()
                    return work
                self._follow(finisher, self._keeper.end, work)
        return None

    def _cuts(self) -> Generator[CutVideo, None, None]:
        """Videos of all units, decoded ahead over the borders of units."""
        return cut_videos(
            self._planner.job.source,
            self._tasks(),
            views=len(self._planner.generation.view_range),
            student_size=0 if self._cut_there else self._student_size,
            device=self._lanes.device,
            cut_there=self._cut_there,
        )

    def _tasks(self) -> Iterator[CutTask]:
        for unit in self._units:
            work = self._planner.plan(unit, self._batch_clips)
            self._begun.append(unit)
            self._waiting.append(work)
            yield from work.tasks

    def _timed(self, cuts: Iterator[CutVideo]) -> Iterator[CutVideo]:
        while True:
            start = time.perf_counter()
            video = next(cuts, None)
            self._meters.wait_seconds += time.perf_counter() - start
            if video is None:
                return
            yield video

    def _readable(
        self, work: UnitWork, videos: Iterable[CutVideo], finisher: Follower
    ) -> Iterator[CutVideo]:
        for video in videos:
            if video.problem is not None:
                self._follow(finisher, self._keeper.fail, work, video, video.problem)
            else:
                yield on_device(video, self._lanes, self._planner.job.experiment.views.size)

    def _compute(self, work: UnitWork, batch: ClipBatch, finisher: Follower) -> None:
        on_its_way = None
        if self._planner.teacher is not None:
            slot = next(self._slots)
            on_its_way = begin_batch(
                self._planner.teacher,
                self._targets,
                batch,
                self._lanes,
                slot,
                student_size=self._student_size if self._cut_there else 0,
            )
        self._follow(finisher, self._keeper.put, work, batch, on_its_way)

    def _follow(
        self, finisher: Follower, call: Callable[P, None], *args: P.args, **named: P.kwargs
    ) -> None:
        start = time.perf_counter()
        finisher.submit(call, *args, **named)
        self._meters.hold_seconds += time.perf_counter() - start


def _reader_of_views(
    job: Job, generation: Generation
) -> AbstractContextManager[CacheReader | None]:
    """For a run that adds targets to stored views; one for all units, as it reads all records."""
    if "views" in generation.arrays:
        return nullcontext()
    return CacheReader(job.folder)
