"""What `reskd evaluate` says about the runs it has measured: JSON, text and a table of classes."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reskd.common.console import aligned, in_lines, one_line
from reskd.common.metrics import top_k_hits
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.records import without_nan
from reskd.student_train.evaluate.confusions import ClassFigures, class_figures, confusion
from reskd.student_train.evaluate.few_videos import few_videos_text
from reskd.student_train.evaluate.imported import borrowed_texts
from reskd.student_train.evaluate.measure import Measured
from reskd.student_train.evaluate.statistics import (
    CALIBRATION_BINS,
    CONFIDENCE,
    Interval,
    accuracy_intervals,
    agreements,
    calibration_error,
    mean_interval,
    paired_difference,
)

NAMES: Final = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_average_precision": "mAP",
    "mean_class_accuracy": "mean class accuracy",
}
"""Figures with intervals, by their keys in the result."""

CLASS_COLUMNS: Final = (
    *("run", "class", "videos", "right", "accuracy", "average_precision"),
    *("wrong_prediction", "wrong_count"),
)
"""Of the table of classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """A measured run and everything that is derived from its predictions."""

    measured: Measured
    name: str
    """Short, and no other run's."""
    json: dict[str, Any]
    """What the command prints."""
    hits_N: NDArray[np.bool_]
    """Videos that top-1 counts as right."""
    classes: list[ClassFigures]
    confusion: NDArray[np.int64]
    """(K, K + 1), see student_train/evaluate/confusions.py."""


def results_of(measured: Sequence[Measured]) -> list[RunResult]:
    """Intervals, calibration and classes of every run; agreement with the first teacher, if any."""
    teacher = teacher_of(measured)
    names = short_names([one.run for one in measured])
    return [_result(one, teacher, name) for one, name in zip(measured, names, strict=True)]


def teacher_of(measured: Sequence[Measured]) -> Measured | None:
    """The first teacher among the runs."""
    return next((one for one in measured if one.info.role == "teacher"), None)


def short_names(runs: Sequence[Path]) -> list[str]:
    """As many of the last parts of each path as keep them apart."""
    for parts in range(1, max(len(run.parts) for run in runs) + 1):
        names = ["/".join(run.parts[-parts:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def _result(one: Measured, teacher: Measured | None, name: str) -> RunResult:
    predictions = one.predictions
    case = predictions.scores_NK, one.targets_NK, predictions.predicted_N
    intervals = {key: _json_interval(value) for key, value in accuracy_intervals(*case).items()}
    figures = {
        **one.figures,
        "intervals": intervals,
        "confidence": CONFIDENCE,
        "calibration_error": calibration_error(*case),
        "calibration_bins": CALIBRATION_BINS,
    }
    if teacher is not None and teacher is not one:
        same_N = agreements(
            predictions.scores_NK,
            predictions.predicted_N,
            teacher.predictions.scores_NK,
            teacher.predictions.predicted_N,
        )
        figures["teacher"] = str(teacher.run)
        figures["agreement"] = float(same_N.mean())
        intervals["agreement"] = _json_interval(mean_interval(same_N))
    return RunResult(
        measured=one,
        name=name,
        json=without_nan(figures),
        hits_N=top_k_hits(case[0], case[1], k=1, predicted_N=case[2]),
        classes=class_figures(*case),
        confusion=confusion(*case),
    )


def comparisons(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Every pair of runs: by how much the second's top-1 is above the first's, on equal videos."""
    pairs = []
    for number, first in enumerate(results):
        for second in results[number + 1 :]:
            difference, interval = paired_difference(second.hits_N, first.hits_N)
            pairs.append(
                {
                    "first": first.json["run"],
                    "second": second.json["run"],
                    "top1_difference": difference,
                    "interval": _json_interval(interval),
                }
            )
    return pairs


def evaluation_json(results: Sequence[RunResult]) -> dict[str, Any]:
    """One run's figures as they are; those of several under `runs`, with comparisons."""
    if len(results) == 1:
        return dict(results[0].json)
    first = results[0].measured
    return {
        "index": str(first.index_path),
        "split": first.figures["split"],
        "videos": first.figures["videos"],
        "runs": [result.json for result in results],
        "comparisons": comparisons(results),
    }


def evaluation_text(results: Sequence[RunResult], result: Mapping[str, Any]) -> str:
    """The results for a person: one run at length, several as a table and their differences.

    Args:
        results: The runs.
        result: What `evaluation_json` made of them.
    """
    if len(results) == 1:
        return _text_of_one(results[0].json)
    first = results[0].measured
    header = ["run", "role", "size", "GMACs", "parameters"]
    header += [*(NAMES[key] for key in ("top1", "top5", "mean_average_precision")), "mean class"]
    header += ["ECE", "agreement", "failed"]
    table = [header, *(_table_row(result) for result in results)]
    what = f"{first.index_path}, split {first.figures['split']}: {first.figures['videos']} videos"
    lines = [
        f"{what}; unreadable ones count as wrong",
        *filter(None, [few_videos_text(first.figures["videos"])]),
        *aligned(table, left=2),
        f"[ ] 95 % by bootstrap over videos, {_resamples(results[0].json)}",
        "",
        *(f"{result.name}: {result.json['protocol']}" for result in results),
        *(f"{result.name}: {text}" for result in results for text in borrowed_texts(result.json)),
        "",
    ]
    names = {result.json["run"]: result.name for result in results}
    for pair in result["comparisons"]:
        shown = f"{pair['top1_difference']:+.4f} {interval_text(pair['interval'], signed=True)}"
        certain = differs(pair["interval"]) or few_videos_text(first.figures["videos"])
        verdict = "" if certain else ", no clear difference"
        pair_of_names = f"{names[pair['second']]} minus {names[pair['first']]}"
        lines.append(f"top-1 of {pair_of_names}: {shown}{verdict}")
    return in_lines(*lines)


def differs(interval: Mapping[str, Any]) -> bool:
    """Whether the interval of a difference leaves zero out."""
    low, high = interval["low"], interval["high"]
    return low is not None and (low > 0 or high < 0)


def interval_text(interval: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """As `[0.7101, 0.8204]`."""
    if interval is None or interval["low"] is None:
        return "[unknown]"
    sign = "+" if signed else ""
    return f"[{interval['low']:{sign}.4f}, {interval['high']:{sign}.4f}]"


def number_text(value: float | None) -> str:
    """A share, or a dash where there is none."""
    return "-" if value is None or not isfinite(value) else f"{value:.4f}"


def cost_text(result: Mapping[str, Any]) -> str:
    """Operations of a view and, where there are several, of a video."""
    cost = f"{result['gmacs']:.3f} GMACs"
    if result["views"] > 1:
        cost += f" a view, {result['gmacs_per_video']:.3f} a video of {result['views']} views"
    return cost


def write_class_table(out: Path, results: Sequence[RunResult]) -> None:
    """A CSV file (UTF-8, RFC 4180), one line per run and class.

    A field that is not defined, such as the accuracy of a class without videos, is empty.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CLASS_COLUMNS)
    for result in results:
        names = result.measured.index.classes
        for name, one in zip(names, result.classes, strict=True):
            wrong = "" if one.wrong_prediction is None else names[one.wrong_prediction]
            shares = [_csv_number(one.accuracy), _csv_number(one.average_precision)]
            row = [result.json["run"], name, one.videos, one.right, *shares, wrong, one.wrong_count]
            writer.writerow([one_line(str(field)) for field in row])
    atomic_write(out, text.getvalue().encode("utf-8", "surrogateescape"))


def _text_of_one(result: Mapping[str, Any]) -> str:
    first = result["metric"]
    ordered = [first, *(key for key in NAMES if key != first)]
    figures = "  ".join(
        f"{NAMES[key]} {number_text(result[key])} {interval_text(result['intervals'][key])}"
        for key in ordered
    )
    agreement = ""
    if "agreement" in result:
        shown = interval_text(result["intervals"]["agreement"])
        agreement = f"  agreement with the teacher {result['agreement']:.4f} {shown}"
    notes = filter(None, [few_videos_text(result["videos"]), *borrowed_texts(result)])
    return in_lines(
        f"{result['role']} {result['run']}",
        f"split {result['split']}: {figures}  "
        f"({result['videos']} videos, {result['failed']} of them unreadable and counted as wrong)",
        f"calibration error {number_text(result['calibration_error'])}{agreement}  "
        f"([ ] 95 % by bootstrap over videos, {_resamples(result)})",
        f"{result['protocol']}: {cost_text(result)}, {result['parameters']:,} parameters",
        *notes,
    )


def _resamples(result: Mapping[str, Any]) -> str:
    draws = {key: result["intervals"][key]["resamples"] for key in NAMES}
    if len(set(draws.values())) == 1:
        return f"{draws['top1']} resamples"
    return f"{draws['top1']} resamples, {draws['mean_average_precision']} for mAP"


def _table_row(result: RunResult) -> list[str]:
    figures = result.json
    shares = [
        f"{number_text(figures[key])} {interval_text(figures['intervals'][key])}"
        for key in ("top1", "top5", "mean_average_precision", "mean_class_accuracy")
    ]
    return [
        result.name,
        figures["role"],
        str(figures["size"]),
        f"{figures['gmacs_per_video']:.3f}",
        f"{figures['parameters']:,}",
        *shares,
        number_text(figures["calibration_error"]),
        number_text(figures.get("agreement")),
        str(figures["failed"]),
    ]


def _json_interval(interval: Interval) -> dict[str, Any]:
    facts = {"low": interval.low, "high": interval.high, "resamples": interval.resamples}
    return dict(without_nan(facts))


def _csv_number(value: float) -> str:
    return f"{value:.6f}" if isfinite(value) else ""
