"""Workers on this machine: a process for each device, at the other end of a pipe."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Literal, cast

import torch

from reskd.teacher_cache.fill.workers.site import Place
from reskd.teacher_cache.fill.workers.worker import (
    DriverGoneError,
    Question,
    WorkOrder,
    work,
)

_SECONDS_TO_END: Final = 60
"""For a worker to commit the unit that is being written."""


@dataclass(eq=False, slots=True)
class LocalHand:
    """A process and the line to it."""

    process: BaseProcess
    line: Connection

    def answer(self, content: object) -> None:
        """Answer its question."""
        with suppress(ConnectionError):
            self.line.send(content)

    def let_go(self) -> None:
        """Close the line."""
        self.line.close()

    def ended(self) -> str:
        """Wait for the process."""
        self.process.join(_SECONDS_TO_END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with {code}"


class LocalSite:
    """The devices of this machine."""

    def __init__(self, order: WorkOrder, devices: Sequence[torch.device]) -> None:
        self._order, self._devices = order, devices
        self._hands: list[LocalHand] = []

    def places(self) -> list[Place]:
        """The devices."""
        return [Place(device=device, number=number) for number, device in enumerate(self._devices)]

    def start(self, place: Place) -> LocalHand:
        """Start a process."""
        context, count = get_context("spawn"), len(self._devices)
        ours, theirs = context.Pipe()
        options = self._order.job.options
        order = replace(
            self._order,
            job=replace(
                self._order.job,
                options=options.share_of(
                    place.device, threads=max(1, options.threads // count), count=count
                ),
            ),
            torch_threads=(
                max(1, torch.get_num_threads() // count) if place.device.type == "cpu" else None
            ),
        )
        # No daemon, which could have no processes that decode. It ends when its line does.
        process = context.Process(target=_run, args=(theirs, order))
        with theirs:
            process.start()
        hand = LocalHand(process, ours)
        self._hands.append(hand)
        return hand

    def hear(self) -> Iterator[tuple[LocalHand, Question | Literal["dead"], Any]]:
        """Wait until somebody says something."""
        hands = {hand.line: hand for hand in self._hands if not hand.line.closed}
        for line in wait(list(hands)):
            hand = hands[cast("Connection", line)]
            if hand.line.closed:  # it was let go meanwhile
                continue
            try:
                yield hand, *hand.line.recv()
            except (EOFError, ConnectionError):
                yield hand, "dead", None


class _Pipe:
    """A worker's end of the line."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, question: Question, content: object) -> None:
        try:
            self._connection.send((question, content))
        except OSError as error:
            raise DriverGoneError from error

    def answer(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise DriverGoneError from error


def _run(connection: Connection, order: WorkOrder) -> None:
    """What the process of a worker runs. Signals are the driver's affair."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    work(_Pipe(connection), order)
