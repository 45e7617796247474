"""The driver: starts a worker per device, hands out units, hears of every video, buries the dead.

What is committed is what has a record; nothing a worker says of that is believed.
"""

import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final, cast

import torch

from reskd.common.console import counted, say
from reskd.common.errors import StoppedShortError
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.pipeline.fill_units import fill_units
from reskd.teacher_cache.fill.pipeline.keeper import OnVideo
from reskd.teacher_cache.fill.workers.unit_queue import DEATHS, UnitQueue
from reskd.teacher_cache.fill.workers.worker import WorkOrder, work
from reskd.teacher_cache.format.commits import Computed
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import Generation, Manifest

_SECONDS_TO_END: Final = 60
"""For a worker to commit the unit that is being written."""


@dataclass(slots=True)
class _Worker:
    """As the driver sees it."""

    number: int
    device: torch.device
    place: int
    """Among the devices."""
    process: BaseProcess
    line: Connection
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
        StoppedShortError: If a unit has ended three workers, or a device cannot keep one.
    """
    queue = UnitQueue(
        units, lambda unit: (job.folder / commit_key(generation.number, unit)).exists()
    )
    _Driver(job, manifest, generation, queue, meters, again, on_video).run()


class _Driver:
    def __init__(
        self,
        job: Job,
        manifest: Manifest,
        generation: Generation,
        queue: UnitQueue,
        meters: FillMeters,
        again: Mapping[int, Computed | None] | None,
        on_video: OnVideo,
    ) -> None:
        self._job, self._queue, self._meters, self._on_video = job, queue, meters, on_video
        self._manifest, self._generation, self._again = manifest, generation, again
        self._workers: dict[Connection, _Worker] = {}
        self._numbers = count()
        self._deaths_at_start = [0] * len(job.options.devices)
        self._seen: set[int] = set()

    def run(self) -> None:
        if any(device.type == "cuda" for device in self._job.options.devices):
            torch.cuda.empty_cache()  # what checking the teacher took is the workers' now
        try:
            for place in range(len(self._job.options.devices)):
                self._start(place)
            while self._workers:
                for line in wait(list(self._workers)):
                    worker = self._workers.get(cast("Connection", line))
                    if worker is not None:  # else it was dismissed meanwhile, and died
                        self._hear(worker)
        finally:
            self._end_all()

    def _start(self, place: int) -> None:
        context, devices = get_context("spawn"), self._job.options.devices
        ours, theirs = context.Pipe()
        device = devices[place]
        order = WorkOrder(
            job=replace(self._job, options=self._job.options.share_of(device)),
            manifest=self._manifest,
            generation=self._generation,
            again=self._again,
            torch_threads=(
                max(1, torch.get_num_threads() // len(devices)) if device.type == "cpu" else None
            ),
            fill_units=fill_units,
        )
        process = context.Process(target=work, args=(theirs, order), daemon=True)
        with theirs:
            process.start()
        self._workers[ours] = _Worker(next(self._numbers), device, place, process, ours)

    def _hear(self, worker: _Worker) -> None:
        try:
            question, content = worker.line.recv()
            match question:
                case "idle":
                    self._is_idle(worker, content)
                case "next":
                    worker.line.send(self._queue.take(worker.number))
                case "video":
                    self._has_seen(worker, *content)
                case "error":
                    raise content
        except (EOFError, ConnectionError):
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
            with suppress(ConnectionError):  # it is dead, as is heard soon
                worker.line.send(self._queue.has_units)
            if not self._queue.has_units:
                self._dismiss(worker)

    def _has_seen(self, worker: _Worker, video: int, failure: str | None) -> None:
        self._deaths_at_start[worker.place] = 0
        if video not in self._seen:  # a unit that was given back is computed again
            self._seen.add(video)
            self._on_video(video, failure)
        if failure is not None:
            worker.line.send(True)

    def _bury(self, worker: _Worker) -> None:
        del self._workers[worker.line]
        worker.line.close()
        worker.process.join(_SECONDS_TO_END)
        self._count(worker)
        lost = self._queue.died(worker.number)
        back = f"; {counted(len(lost), 'unit')} ({', '.join(map(str, lost))}) again" if lost else ""
        say(f"the worker on {worker.device} {_how(worker.process)}{back}")
        for unit in lost:
            if self._queue.deaths[unit] >= DEATHS:
                raise StoppedShortError(
                    f"Unit {unit} has ended {DEATHS} workers, the last on {worker.device}, which "
                    f"{_how(worker.process)}. Look at its videos with `reskd dataset check`, or at "
                    "the memory of the machine, and run the same command again; finished units "
                    "are kept."
                )
        self._deaths_at_start[worker.place] += not lost
        if self._deaths_at_start[worker.place] >= DEATHS:
            raise StoppedShortError(
                f"{DEATHS} workers on {worker.device} ended before they had begun a unit; the last "
                f"one {_how(worker.process)}. Run with --device {worker.device} to see why; "
                "finished units are kept."
            )
        if not self._queue.is_finished:
            self._start(worker.place)
        self._answer_idle()

    def _dismiss(self, worker: _Worker) -> None:
        self._count(worker)
        del self._workers[worker.line]
        worker.line.close()
        _end(worker.process)

    def _count(self, worker: _Worker) -> None:
        if worker.meters is not None:
            self._meters.add(worker.meters)
            worker.meters = None

    def _end_all(self) -> None:
        """Every worker commits what it is writing, and ends."""
        for worker in self._workers.values():
            self._count(worker)
            worker.line.close()
        for worker in self._workers.values():
            _end(worker.process)


def _end(process: BaseProcess) -> None:
    process.join(_SECONDS_TO_END)
    if process.is_alive():
        process.kill()
        process.join()


def _how(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code}"
