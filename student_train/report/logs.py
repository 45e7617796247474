"""What the measured runs say about their training; a damaged or an old log says less."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from reskd.common.errors import DataError
from reskd.student_train.evaluate.results import RunResult
from reskd.student_train.run.log import EVENTS_FILE, START_EVENT, read_log
from reskd.student_train.run.provenance import RunStart

_MOST: Final = 1e15
"""Larger figures are damage, and could not be drawn."""

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The log of one run."""

    lines: Sequence[Line]
    state: str
    """Whether there was one, and whether it could be read."""

    @classmethod
    def of(cls, run: Path) -> Self:
        """Of a run, or of the run whose best checkpoint this is."""
        try:
            for folder in (run, run.parent):
                if (folder / EVENTS_FILE).is_file():
                    return cls(read_log(folder), "read")
        except (DataError, OSError):  # a report of what was measured is worth more than a log
            return cls([], "damaged")
        return cls([], "there is none")

    def of_kind(self, event: str) -> list[Line]:
        """Its lines of one kind, in order."""
        return [line for line in self.lines if line["event"] == event]

    @property
    def start(self) -> RunStart | None:
        """How the run was started last; None where that was not recorded, or cannot be read."""
        starts = self.of_kind(START_EVENT)
        return RunStart.of_line(starts[-1]) if starts else None


def training_logs(results: Sequence[RunResult]) -> dict[str, TrainingLog]:
    """The logs of runs by their names, in their order."""
    return {result.name: TrainingLog.of(result.measured.run) for result in results}


def number(line: Line, key: str) -> float | None:
    """A figure of a line; None where there is none that can be drawn."""
    value = line.get(key)
    if isinstance(value, int | float) and abs(value) <= _MOST:  # false for nan
        return float(value)
    return None
