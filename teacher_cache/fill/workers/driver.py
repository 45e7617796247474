"""The driver: a worker at every place, units handed out, every video heard of, the dead buried.

What is committed is what has a record; nothing a worker says of that is believed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from reskd.common.console import counted, say
from reskd.common.errors import StoppedShortError
from reskd.teacher_cache.fill.job import Job, RunOptions
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
    """What `fill_units` does, by one worker on each of the job's devices, or places in a cluster.

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
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # what checking the teacher took is the workers' now
    _Driver(_site(order, job.options), queue, meters, on_video).run()


def _site(order: WorkOrder, options: RunOptions) -> Site:
    if options.ray is None:
        return LocalSite(order, options.devices)
    from reskd.teacher_cache.fill.workers.ray_site import RaySite  # Ray is an extra

    return RaySite(order, options.ray)


class _Driver:
    def __init__(self, site: Site, queue: UnitQueue, meters: FillMeters, on_video: OnVideo) -> None:
        self._site, self._queue, self._meters, self._on_video = site, queue, meters, on_video
        self._workers: dict[Hand, _Worker] = {}
        self._numbers = count()
        self._deaths_at_start = Counter[Place]()
        self._seen: set[int] = set()

    def run(self) -> None:
        try:
            while not self._queue.is_finished:
                self._fill_places()
                for hand, question, content in self._site.hear():
                    worker = self._workers.get(hand)
                    if worker is not None:  # else it was let go meanwhile
                        self._hear(worker, question, content)
        finally:
            self._end_all()

    def _fill_places(self) -> None:
        taken = {worker.place for worker in self._workers.values()}
        for place in self._site.places():
            if place not in taken and self._deaths_at_start[place] < DEATHS:
                hand = self._site.start(place)
                self._workers[hand] = _Worker(next(self._numbers), place, hand)

    def _hear(self, worker: _Worker, question: str, content: Any) -> None:
        match question:
            case "idle":
                self._is_idle(worker, content)
            case "next":
                worker.hand.answer(self._queue.take(worker.number))
            case "video":
                self._has_seen(worker, *content)
            case "error":
                if worker.place.machine:
                    say(f"the worker on {worker.place} cannot go on")
                raise content
            case "dead":
                self._bury(worker)

    def _is_idle(self, worker: _Worker, meters: FillMeters) -> None:
        worker.meters, worker.idle = meters, True
        self._queue.finished(worker.number)
        self._answer_idle()

    def _answer_idle(self) -> None:
        """Those who wait go on if there are units; else some may come back from the dead."""
        for worker in self._workers.values():
            if worker.idle and self._queue.has_units:
                worker.idle = False
                worker.hand.answer(True)

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
        self._check_places(worker.place, how)
        self._answer_idle()

    def _check_places(self, place: Place, how: str) -> None:
        """A place that keeps no worker is given up; the others go on."""
        if self._deaths_at_start[place] < DEATHS:
            return
        what = f"{DEATHS} workers on {place} ended before they had begun a unit"
        places = self._site.places()
        if places and all(self._deaths_at_start[one] >= DEATHS for one in places):
            raise StoppedShortError(
                f"{what}; the last one {how}. Run there with --device {place.device} to see why; "
                "finished units are kept."
            )
        say(f"{what}: it gets no further one")

    def _let_go(self, worker: _Worker) -> None:
        del self._workers[worker.hand]
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
