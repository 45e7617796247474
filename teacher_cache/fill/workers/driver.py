"""The driver: a worker at every place, units handed out, every video heard of, the dead buried.

What is committed is what has a record; nothing a worker says of that is believed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from reskd.common.console import counted, say
from reskd.common.errors import StoppedShortError
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.pipeline.fill_units import fill_units
from reskd.teacher_cache.fill.pipeline.keeper import OnVideo
from reskd.teacher_cache.fill.workers.local import LocalSite
from reskd.teacher_cache.fill.workers.site import Hand, Place, Site
from reskd.teacher_cache.fill.workers.unit_queue import DEATHS, UnitQueue
from reskd.teacher_cache.fill.workers.worker import WorkOrder
from reskd.teacher_cache.format.commits import Computed
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import Generation, Manifest


@dataclass(slots=True)
class _Worker:
    number: int
    place: Place
    hand: Hand
    idle: bool = False
    """Whether it waits to be told if there is more."""
    meters: FillMeters | None = None


def fill_with_workers(
    job: Job,
    manifest: Manifest,
    generation: Generation,
    units: Iterable[int],
    *,
    meters: FillMeters,
    again: Mapping[int, Computed | None] | None = None,
    on_video: OnVideo,
) -> None:
    """What `fill_units` does, by one worker on each of the job's devices.

    Raises:
        StoppedShortError: If a unit has ended three workers, or a place cannot keep one.
    """
    order = WorkOrder(
        job=job,
        manifest=manifest,
        generation=generation,
        again=again,
        torch_threads=None,
        fill_units=fill_units,
    )
    queue = UnitQueue(
        units, lambda unit: (job.folder / commit_key(generation.number, unit)).exists()
    )
    _Driver(LocalSite(order, job.options.devices), queue, meters, on_video).run()


class _Driver:
    def __init__(self, site: Site, queue: UnitQueue, meters: FillMeters, on_video: OnVideo) -> None:
        self._site, self._queue, self._meters, self._on_video = site, queue, meters, on_video
        self._workers: dict[int, _Worker] = {}
        self._numbers = count()
        self._deaths_at_start = Counter[Place]()
        self._seen: set[int] = set()

    def run(self) -> None:
        try:
            while not self._queue.is_finished or self._workers:
                self._fill_places()
                for hand, question, content in self._site.hear():
                    worker = self._workers.get(id(hand))
                    if worker is not None:  # else it was dismissed meanwhile
                        self._hear(worker, question, content)
        finally:
            self._end_all()

    def _fill_places(self) -> None:
        if self._queue.is_finished:
            return
        taken = {worker.place for worker in self._workers.values()}
        for place in self._site.places():
            if place not in taken:
                hand = self._site.start(place)
                self._workers[id(hand)] = _Worker(next(self._numbers), place, hand)

    def _hear(self, worker: _Worker, question: str, content: Any) -> None:
        match question:
            case "idle":
                self._is_idle(worker, content)
            case "next":
                worker.hand.answer(self._queue.take(worker.number))
            case "video":
                self._has_seen(worker, *content)
            case "error":
                raise content
            case "dead":
                self._bury(worker)

    def _is_idle(self, worker: _Worker, meters: FillMeters) -> None:
        worker.meters, worker.idle = meters, True
        self._queue.finished(worker.number)
        self._answer_idle()

    def _answer_idle(self) -> None:
        """Those who wait go on where there are units, and home where none can come back."""
        if not (self._queue.has_units or self._queue.is_finished):
            return
        for worker in [one for one in self._workers.values() if one.idle]:
            worker.idle = False
            worker.hand.answer(self._queue.has_units)
            if not self._queue.has_units:
                self._let_go(worker)
                worker.hand.ended()

    def _has_seen(self, worker: _Worker, video: int, failure: str | None) -> None:
        self._deaths_at_start[worker.place] = 0
        if video not in self._seen:  # a unit that was given back is computed again
            self._seen.add(video)
            self._on_video(video, failure)
        if failure is not None:
            worker.hand.answer(True)

    def _bury(self, worker: _Worker) -> None:
        self._let_go(worker)
        how = worker.hand.ended()
        lost = self._queue.died(worker.number)
        back = f"; {counted(len(lost), 'unit')} ({', '.join(map(str, lost))}) again" if lost else ""
        say(f"the worker on {worker.place} {how}{back}")
        for unit in lost:
            if self._queue.deaths[unit] >= DEATHS:
                raise StoppedShortError(
                    f"Unit {unit} has ended {DEATHS} workers, the last on {worker.place}, which "
                    f"{how}. Look at its videos with `reskd dataset check`, or at the memory of "
                    "the machine, and run the same command again; finished units are kept."
                )
        self._deaths_at_start[worker.place] += not lost
        if self._deaths_at_start[worker.place] >= DEATHS:
            raise StoppedShortError(
                f"{DEATHS} workers on {worker.place} ended before they had begun a unit; the last "
                f"one {how}. Run there with --device {worker.place.device} to see why; finished "
                "units are kept."
            )
        self._answer_idle()

    def _let_go(self, worker: _Worker) -> None:
        del self._workers[id(worker.hand)]
        worker.hand.let_go()
        if worker.meters is not None:
            self._meters.add(worker.meters)

    def _end_all(self) -> None:
        """Every worker commits what it is writing, and ends."""
        left = list(self._workers.values())
        for worker in left:
            self._let_go(worker)
        for worker in left:
            worker.hand.ended()
