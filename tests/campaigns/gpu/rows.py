"""Rows of the campaign, and running them in a process that may hang or die."""

import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal

import torch

from tests.campaigns.gpu.recipes import Scale

Figures = dict[str, Any]
Status = Literal["measured", "not measured", "failed"]
GRACE_SECONDS: Final = 40.0
"""For a process to start: its imports."""


@dataclass(kw_only=True, slots=True)
class Bench:
    """Where rows run, and what earlier rows found."""

    device: torch.device
    scale: Scale
    folder: Path
    """For everything that is written; on a disk in memory where there is one."""
    figures: dict[str, Figures] = field(default_factory=dict)
    """Of the rows that were run, by name."""

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    def figure(self, row: str, name: str) -> float:
        """A figure of an earlier row.

        Raises:
            LookupError: If that row has failed.
        """
        if row not in self.figures:
            raise LookupError(f"row {row!r} gave nothing to compare with")
        value: float = self.figures[row][name]
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing to find out."""

    name: str
    run: Callable[[Bench], Figures]
    card_only: bool = False
    """It means nothing without a CUDA device."""
    seconds: float = 60.0
    """After this long it is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of a row."""

    row: str
    status: Status
    figures: Figures = field(default_factory=dict)
    """On a CPU those of the trial."""
    reason: str = ""
    """Why there is no result."""
    seconds: float = 0.0


def run_rows(rows: Sequence[Row], bench: Bench, *, seconds: float) -> Iterator[Result]:
    """Run rows one after the other, in a process of their own that is replaced when it is lost.

    Args:
        rows: In this order.
        bench: Where.
        seconds: For all of them; what has not begun by then is not measured.
    """
    deadline = time.monotonic() + seconds
    waiting = deque(rows)
    while waiting and time.monotonic() < deadline:
        with _Worker(tuple(waiting), bench) as worker:
            while waiting and not worker.is_lost and time.monotonic() < deadline:
                row = waiting.popleft()
                result = worker.result(row)
                if result.figures:
                    bench.figures[row.name] = result.figures
                yield result
    yield from (
        Result(row=row.name, status="not measured", reason="out of time") for row in waiting
    )


def run_row(row: Row, bench: Bench) -> Result:
    """Run one row in this process; whatever it raises is its result."""
    start = time.perf_counter()
    if row.card_only and not bench.on_card:
        return Result(row=row.name, status="not measured", reason="no CUDA device")
    try:
        figures = row.run(bench)
    except Exception as error:  # noqa: BLE001 - a row that fails must not end the others
        traceback.print_exc()
        return Result(
            row=row.name,
            status="failed",
            reason=f"{type(error).__name__}: {error}",
            seconds=time.perf_counter() - start,
        )
    finally:
        if bench.on_card:
            torch.cuda.empty_cache()
    return Result(
        row=row.name,
        status="measured" if bench.on_card else "not measured",
        figures=figures,
        reason="" if bench.on_card else "no CUDA device; tried on the CPU",
        seconds=time.perf_counter() - start,
    )


def as_dict(result: Result) -> dict[str, Any]:
    """For JSON."""
    return {name: value for name, value in asdict(result).items() if value not in ("", {})}


class _Worker:
    """A process that runs rows in turn, as they are asked for."""

    def __init__(self, rows: Sequence[Row], bench: Bench) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(list(rows), bench, theirs))
        self._process.start()
        theirs.close()
        self.is_lost = False
        self._started = False

    def result(self, row: Row) -> Result:
        start = time.perf_counter()
        limit = row.seconds + (0 if self._started else GRACE_SECONDS)
        self._started = True
        reason = f"no answer within {limit:.0f} s"
        try:
            if self._pipe.poll(limit):
                result: Result = self._pipe.recv()
                return result
        except (EOFError, OSError):
            self._process.join(5)
            reason = f"its process ended with exit code {self._process.exitcode}"
        self.is_lost = True
        spent = time.perf_counter() - start
        return Result(row=row.name, status="failed", reason=reason, seconds=spent)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.close()
        if self.is_lost or exception[0] is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()


def _work(rows: Sequence[Row], bench: Bench, pipe: Connection) -> None:
    """Run all rows; the parent listens, and ends this process and its children if it must."""
    os.setpgrp()
    for row in rows:
        result = run_row(row, bench)
        if result.figures:
            bench.figures[row.name] = result.figures
        try:
            pipe.send(result)
        except OSError:  # nobody listens any more
            return
