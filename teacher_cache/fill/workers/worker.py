"""A worker: a teacher of its own on its device, which asks the driver for units, wherever it runs.

It says (question, content) and hears an answer to some of that. It ends when its line to the driver
does, with the unit that is being written committed.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch

from reskd.common.errors import ReskdError
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.own_code import trust_code
from reskd.teacher_cache.fill.job import Job, teacher_for
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.format.commits import Computed
from reskd.teacher_cache.format.manifest import Generation, Manifest

Question = Literal["idle", "next", "video", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkOrder:
    """What a worker is told when it starts."""

    job: Job
    """With its device and its share of the threads."""
    manifest: Manifest
    generation: Generation
    again: Mapping[int, Computed | None] | None
    torch_threads: int | None
    """None leaves torch's own number."""
    fill_units: Callable[..., None]


class DriverGoneError(Exception):
    """The line to the driver has ended."""


class Carrier(Protocol):
    """What carries messages to the driver; raises DriverGoneError when the line has ended."""

    def send(self, question: Question, content: object) -> None:
        """Say something."""

    def answer(self) -> Any:
        """Wait for the answer to what was said last."""


class Line:
    """To the driver, for all threads of a worker."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier, self._lock = carrier, threading.Lock()

    def say(self, question: Question, content: object, *, answered: bool = False) -> Any:
        """Say something; gives the answer, if there is one."""
        with self._lock:
            self._carrier.send(question, content)
            return self._carrier.answer() if answered else None


def work(carrier: Carrier, order: WorkOrder) -> None:
    """Fill units until the driver has no more; what fails is the driver's to tell."""
    line = Line(carrier)
    with suppress(DriverGoneError):
        try:
            _fill(line, order)
        except DriverGoneError:
            raise
        except (ReskdError, OSError) as error:
            line.say("error", error)


def _fill(line: Line, order: WorkOrder) -> None:
    if order.torch_threads is not None:
        torch.set_num_threads(order.torch_threads)
    job, total = order.job, FillMeters()
    trust_code(*job.experiment.code_names)  # as the driver does
    model, _ = load_checkpoint(job.experiment.teacher.checkpoint)
    teacher = teacher_for(job.experiment, model, order.manifest, job.options.device)

    def on_video(video: int, failure: str | None) -> None:
        # The driver may want to stop before the unit of one that cannot be read is committed.
        line.say("video", (video, failure), answered=failure is not None)

    while line.say("idle", replace(total), answered=True):
        meters = FillMeters()
        units = iter(lambda: line.say("next", None, answered=True), None)
        order.fill_units(
            job,
            order.manifest,
            order.generation,
            units,
            teacher,
            meters=meters,
            again=order.again,
            on_video=on_video,
        )
        total.add(meters)
