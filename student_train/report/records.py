"""The sections of a report about where runs come from: curves, commands, versions.

A damaged or an old log says less; a report of what was measured is worth more than a log.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from markupsafe import Markup

from reskd.common.errors import DataError
from reskd.common.experiment.load import experiment_yaml
from reskd.student_train.evaluate.results import RunResult
from reskd.student_train.report.page import render
from reskd.student_train.report.plots import Series, curves
from reskd.student_train.run.log import EVENTS_FILE, START_EVENT, read_log
from reskd.student_train.run.provenance import RunStart, installed_versions

_MOST: Final = 1e15
"""Larger figures are damage, and could not be drawn."""
_UNREADABLE_SHOWN: Final = 50
_CURVES: Final = (
    ("epoch", "cross_entropy", "training cross entropy", "nats"),
    ("epoch", "train_top1", "top-1 on the training clips", "share"),
    ("validation", "top1", "top-1 while training, on the validation split", "share"),
)

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
        except (DataError, OSError):
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

    def points(self, event: str, key: str) -> list[tuple[float, float]]:
        """(epochs done, figure) of the lines that have both."""
        pairs = [(number(line, "epoch"), number(line, key)) for line in self.of_kind(event)]
        return [(epoch + 1, y) for epoch, y in pairs if epoch is not None and y is not None]


def number(line: Line, key: str) -> float | None:
    """A figure of a line; None where there is none that can be drawn."""
    value = line.get(key)
    if isinstance(value, int | float) and abs(value) <= _MOST:  # false for nan
        return float(value)
    return None


def training_section(logs: Mapping[str, TrainingLog]) -> Markup | None:
    """Training as the runs logged it; None where none has a log."""
    plots = []
    for event, key, title, unit in _CURVES:
        points = {run: log.points(event, key) for run, log in logs.items()}
        series = [Series(name=run, points=found) for run, found in points.items() if found]
        if series:
            plots.append(curves(series, title=title, x_label="epoch", y_label=unit))
    if not plots:
        return None
    ends = [(run, _end(log), log.state) for run, log in logs.items()]
    return render("training.html", plots=plots, ends=ends)


def _end(log: TrainingLog) -> dict[str, Any] | None:
    """Of the curves of a log; None without any."""
    lines = log.of_kind("epoch")
    if not lines:
        return None
    return {
        "epochs": len(lines),
        "clips": sum(number(line, "clips") or 0 for line in lines),
        "cross_entropy": number(lines[-1], "cross_entropy"),
        "train_top1": number(lines[-1], "train_top1"),
    }


def unreadable_section(results: Sequence[RunResult]) -> Markup | None:
    """Videos that counted as wrong because they could not be read; None where there are none."""
    failures = {
        video: reason
        for result in results
        for video, reason in result.measured.predictions.failures.items()
    }
    if not failures:
        return None
    shown = list(failures.items())[:_UNREADABLE_SHOWN]
    return render("unreadable.html", shown=shown, total=len(failures))


def repeat_section(
    results: Sequence[RunResult], logs: Mapping[str, TrainingLog], command: Sequence[str]
) -> Markup:
    """What to type to measure and to train this again, what the networks are, what computed it."""
    first = results[0].measured
    versions = installed_versions()
    runs = []
    for result in results:
        info, log = result.measured.info, logs[result.name]
        facts = [
            ("folder", str(result.measured.run)),
            ("weights", f"sha256 {info.weights_sha256}"),
            ("network", f"{info.model.recognizer} of {info.model.backbone}"),
        ]
        start = log.start
        if start is not None:
            facts += _start_facts(start, log, versions)
        runs.append(
            {
                "name": result.name,
                "role": info.role,
                "facts": facts,
                "start": start,
                "command": shlex.join(start.command) if start else "",
                "experiment": experiment_yaml(result.measured.experiment),
            }
        )
    return render(
        "repeat.html",
        command=shlex.join(command),
        index=first.index_path,
        digest=first.index.digest(first.figures["split"]),
        runs=runs,
        versions=versions,
    )


def _start_facts(
    start: RunStart, log: TrainingLog, here: Mapping[str, str]
) -> list[tuple[str, str]]:
    """What a run learned from, and on what it was trained."""
    versions = ", ".join(f"{program} {version}" for program, version in start.versions.items())
    facts = [
        ("learned from", _learned_from(start)),
        ("device", start.device),
        ("processes", f"{start.processes}, threads in each: {start.threads}"),
        ("versions", "as below" if start.versions == here else versions),
    ]
    starts = log.of_kind(START_EVENT)
    if len(starts) > 1:
        last = f"the last time after {starts[-1]['step']} steps"
        facts.append(("started", f"{len(starts)} times, {last}"))
    return facts


def _learned_from(start: RunStart) -> str:
    if start.learned_from == "cache":
        return f"the cache {start.cache}, fingerprint {start.fingerprint}"
    views = "" if start.cache is None else f", on the views of the cache {start.cache}"
    if start.learned_from == "live":
        return f"its teacher in every step, weights {start.teacher_sha256}{views}"
    return f"labels alone{views}"
