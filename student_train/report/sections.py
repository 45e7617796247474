"""The sections of a report about figures: results, differences, classes and confusions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from reskd.student_train.evaluate.results import NAMES, RunResult, comparisons
from reskd.student_train.report.page import render
from reskd.student_train.report.plots import Series, accuracy_against_cost

MATRIX_CLASSES: Final = 25
"""A matrix of more classes shows those that are confused most."""
NARROW_CLASSES: Final = 10
"""A matrix of at most so many leaves room for a table beside it."""
WORST_CLASSES: Final = 15
PAIRS: Final = 15


def results_section(results: Sequence[RunResult]) -> Markup:
    """Accuracy against cost, and the table it was drawn from."""
    figures = results[0].measured.figures
    metric, label = figures["metric"], NAMES[figures["metric"]]
    points = [
        Series(
            name=result.name,
            points=[(result.json["gmacs_per_video"], result.json[metric])],
            interval=_bounds(result.json["intervals"][metric]),
        )
        for result in results
        if result.json[metric] is not None
    ]
    title = f"{label} against cost, with intervals of 95 %"
    return render(
        "results.html",
        videos=figures["videos"],
        split=figures["split"],
        metric=label,
        plot=accuracy_against_cost(points, title=title, y_label=label) if points else None,
        shares=NAMES,
        runs=results,
    )


def differences_section(results: Sequence[RunResult]) -> Markup | None:
    """Every pair of runs on the same videos; None of a single run."""
    if len(results) == 1:
        return None
    names = {result.json["run"]: result.name for result in results}
    return render("differences.html", pairs=comparisons(results), names=names)


def classes_section(results: Sequence[RunResult]) -> Markup:
    """Of every run the worst classes."""
    runs = []
    for result in results:
        present = [(label, one) for label, one in enumerate(result.classes) if one.videos]
        worst = sorted(present, key=lambda pair: pair[1].accuracy)[:WORST_CLASSES]
        runs.append({"name": result.name, "present": len(present), "worst": worst})
    return render("classes.html", runs=runs, names=results[0].measured.index.classes)


def confusions_section(results: Sequence[RunResult]) -> Markup:
    """Of every run the matrix, and the pairs it confuses most."""
    runs = []
    for result in results:
        pairs = confused_pairs(result.confusion)
        runs.append(
            {
                "name": result.name,
                "classes": result.classes,
                "matrix": _matrix(result.confusion),
                "pairs": pairs[:PAIRS],
                "num_pairs": len(pairs),
            }
        )
    return render("confusions.html", runs=runs, names=results[0].measured.index.classes)


def confused_pairs(confusion: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(class, prediction, videos) where wrong, the most frequent first, of equals the earlier."""
    wrong = confusion[:, :-1].copy()
    np.fill_diagonal(wrong, 0)
    rows, columns = np.nonzero(wrong)
    found = zip(rows.tolist(), columns.tolist(), wrong[rows, columns].tolist(), strict=True)
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def shown_classes(confusion: NDArray[np.int64], limit: int = MATRIX_CLASSES) -> list[int]:
    """Classes that a matrix shows: all where they are few, else those of the worst confusions."""
    if len(confusion) <= limit:
        return list(range(len(confusion)))
    chosen: list[int] = []
    for row, column, _ in confused_pairs(confusion):
        new = [label for label in (row, column) if label not in chosen]
        if len(chosen) + len(new) > limit:
            break
        chosen += new
    return sorted(chosen)


def _matrix(confusion: NDArray[np.int64]) -> dict[str, Any]:
    """The counts of the shown classes, those of all others and of unreadable videos."""
    shown = shown_classes(confusion)
    counts, more = confusion[np.ix_(shown, shown)], []
    others = len(shown) < len(confusion)
    if others:
        more.append("other")
        rest = confusion[shown, :-1].sum(axis=1) - counts.sum(axis=1)
        counts = np.column_stack([counts, rest])
    if confusion[:, -1].any():
        more.append("unreadable")
        counts = np.column_stack([counts, confusion[shown, -1]])
    rows = [
        {"label": label, "counts": row, "videos": int(confusion[label].sum())}
        for label, row in zip(shown, counts.tolist(), strict=True)
    ]
    return {"rows": rows, "more": more, "others": others, "narrow": len(shown) <= NARROW_CLASSES}


def _bounds(interval: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if interval["low"] is None else (interval["low"], interval["high"])
