"""What is counted while a network trains: seconds of several processes, losses that explode."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, TypeVar

import pytest
import torch

from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.meters import Counts, Figures
from tests.tiny_experiment import CPU

Found = TypeVar("Found")


@dataclass(frozen=True)
class Pair(ProcessGroup):
    """One of two processes that are threads of this one."""

    world: int = 2
    told: list[Any] = field(default_factory=lambda: [None, None])
    meeting: Barrier = field(default_factory=lambda: Barrier(2, timeout=20))

    def all_of(self, value: Any) -> list[Any]:
        self.told[self.rank] = value
        self.meeting.wait()
        told = list(self.told)
        self.meeting.wait()
        return told

    def totals(self, values: Sequence[float]) -> list[float]:
        return [sum(both) for both in zip(*self.all_of(values), strict=True)]


def _in_both(
    compute: Callable[[Figures, ProcessGroup], Found], figures: Sequence[Figures]
) -> Found:
    """What both processes come to."""
    first = Pair(CPU)
    pair = (first, Pair(CPU, rank=1, told=first.told, meeting=first.meeting))
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(compute, figures, pair)
    assert one == other
    return one


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows its one number."""
    shown = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: shown[0])
    return shown


def _counts(clips: int, loss: float) -> Counts:
    return Counts(clips, ("loss",), torch.tensor([loss], dtype=torch.float64))


def _count(figures: Sequence[Figures], clock: list[float]) -> None:
    """Ten clips in each process in four seconds, one of them without data."""
    for own in figures:
        own.add(_counts(10, 2.0))
        own.waited(1.0)
    clock[0] += 4.0


def test_seconds_of_an_epoch_that_was_saved_on_the_way_are_those_of_the_clock(
    clock: list[float],
) -> None:
    figures = (Figures({}), Figures({}))
    for _ in range(3):
        _count(figures, clock)
        saved = _in_both(Figures.totals, figures)
        # As after a restart: the first process takes over what all have counted.
        figures = (Figures(saved), Figures({}))
    _count(figures, clock)
    assert _in_both(Figures.summary, figures) == {
        "clips": 80,
        "loss": 2.0,
        "seconds": 16.0,
        "clips_per_second": 5.0,
        "data_wait_share": 0.25,
    }


def test_pace_is_that_of_all_processes(clock: list[float]) -> None:
    figures = Figures({})
    _count([figures], clock)
    assert figures.pace(ProcessGroup(CPU)) == (2.5, 0.25)
    assert figures.pace(ProcessGroup(CPU, world=2)) == (5.0, 0.25)


@pytest.mark.parametrize(
    ("mean", "loss", "explodes"),
    [
        pytest.param(2e-4, 0.25, False, id="one-hard-clip-of-a-converged-run"),
        pytest.param(2e-4, 30.0, False, id="one-clip-that-is-wrong-for-sure"),
        pytest.param(2e-4, 200.0, True, id="converged-run-that-explodes"),
        pytest.param(2.0, 1900.0, False, id="large"),
        pytest.param(2.0, 2100.0, True, id="far-too-large"),
    ],
)
def test_loss_explodes_far_beyond_the_mean_and_beyond_any_clip(
    mean: float, loss: float, explodes: bool
) -> None:
    figures = Figures({})
    for _ in range(20):
        assert loss < figures.ceiling()
        figures.add(_counts(4, mean))
    assert bool(loss > figures.ceiling()) is explodes
