"""The sections of a report about figures: results, differences, classes and confusions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reskd.student_train.evaluate.results import (
    NAMES,
    RunResult,
    comparisons,
    cost_text,
    differs,
    interval_text,
    number_text,
)
from reskd.student_train.report.figures import Series, accuracy_against_cost
from reskd.student_train.report.page import (
    Content,
    Markup,
    joined,
    name,
    scrolling,
    section,
    table,
    tag,
)

MATRIX_CLASSES: Final = 25
"""A matrix of more classes shows those that are confused most."""
NARROW_CLASSES: Final = 10
"""A matrix of at most so many leaves room for a table beside it."""
WORST_CLASSES: Final = 15
PAIRS: Final = 15


def results_section(results: Sequence[RunResult]) -> Markup:
    """Accuracy against cost, and the table it was drawn from."""
    first = results[0].measured
    metric = first.figures["metric"]
    label = NAMES[metric]
    points = [
        Series(
            name=result.name,
            points=[(result.json["gmacs_per_video"], result.json[metric])],
            interval=_bounds(result.json["intervals"][metric]),
        )
        for result in results
        if result.json[metric] is not None
    ]
    figure: Content = tag("p", f"There is no {label} to draw: no run could read a video.")
    if points:
        title = f"{label} against cost, with intervals of 95 %"
        figure = accuracy_against_cost(points, title=title, y_label=label)
    shares = ["top1", "top5", "mean_average_precision", "mean_class_accuracy"]
    header: list[Content] = ["run", *(NAMES[key] for key in shares)]
    header += ["agreement with teacher", "calibration error"]
    header += ["GMACs per video", "parameters", "unreadable"]
    rows = [_result_row(result, shares) for result in results]
    measured = tag(
        "p",
        f"{first.figures['videos']} videos of split ",
        name(first.figures["split"]),
        ". A video that cannot be read counts as answered wrongly. Small figures are intervals of "
        "95 % by bootstrap over videos: they tell what is owed to the choice of videos, not what "
        "another training seed would give. Calibration error: the mean gap between the probability "
        "of an answer and how often such answers are right.",
    )
    protocols = [
        tag("li", name(result.name), f": {result.json['protocol']}: {cost_text(result.json)}")
        for result in results
    ]
    return section(
        "results",
        "Results",
        measured,
        figure,
        table("Accuracies as shares, cost and counts", header, rows, label="Results"),
        tag("h3", "Protocols"),
        tag("ul", *protocols),
    )


def differences_section(results: Sequence[RunResult]) -> Markup:
    """Every pair of runs on the same videos."""
    names = {result.json["run"]: result.name for result in results}
    rows = [
        (
            joined([name(names[pair["second"]]), " minus ", name(names[pair["first"]])]),
            f"{pair['top1_difference']:+.4f}",
            interval_text(pair["interval"], signed=True),
            "yes" if differs(pair["interval"]) else "no",
        )
        for pair in comparisons(results)
    ]
    return section(
        "differences",
        "Differences",
        tag(
            "p",
            "Both runs answer the same drawn videos in every resample, so what both get right or "
            "wrong cancels. A difference is clear if its interval leaves 0 out.",
        ),
        table(
            "Differences of top-1 between runs",
            ["runs", "difference", "95 % interval", "clear"],
            rows,
            label="Differences",
        ),
    )


def classes_section(results: Sequence[RunResult]) -> Markup:
    """Of every run the worst classes."""
    parts: list[Content] = []
    for result in results:
        classes = result.measured.index.classes
        present = [label for label, one in enumerate(result.classes) if one.videos]
        order = sorted(present, key=lambda label: result.classes[label].accuracy)
        rows = []
        for label in order[:WORST_CLASSES]:
            one = result.classes[label]
            wrong = (
                None
                if one.wrong_prediction is None
                else joined([name(classes[one.wrong_prediction]), f" ({one.wrong_count})"])
            )
            shares = number_text(one.accuracy), number_text(one.average_precision)
            rows.append((name(classes[label]), str(one.videos), str(one.right), *shares, wrong))
        caption = f"{len(rows)} of {len(present)} classes that occur, the worst first"
        header = ["class", "videos", "right", "accuracy", "average precision", "mostly taken for"]
        parts += [
            tag("h3", name(result.name)),
            table(caption, header, rows, label=f"Worst classes of {result.name}"),
        ]
    return section("classes", "Worst classes", *parts)


def confusions_section(results: Sequence[RunResult]) -> Markup:
    """Of every run the matrix, and the pairs it confuses most."""
    parts: list[Content] = [
        tag(
            "p",
            "Rows are classes, columns are answers, by the numbers that the rows have. A video of "
            "several labels counts in the row of each, as right if its answer is any of them.",
        )
    ]
    for result in results:
        pairs = confused_pairs(result.confusion)
        shown = shown_classes(result.confusion)
        beside = _pairs_table(result, pairs) if pairs else tag("p", "It confuses no classes.")
        both = _matrix(result, shown), beside
        narrow = len(shown) <= NARROW_CLASSES
        parts.append(tag("h3", name(result.name)))
        parts.append(tag("div", *both, class_="two") if narrow else joined(both))
    return section("confusions", "Confusions", *parts)


def confused_pairs(confusion: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(class, answer, videos) of wrong answers, the most frequent first, of equals the earlier."""
    wrong = _wrong(confusion)
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


def _wrong(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = confusion[:, :-1].copy()
    np.fill_diagonal(wrong, 0)
    return wrong


def _matrix(result: RunResult, shown: Sequence[int]) -> Markup:
    """A table: it can be read aloud, and its counts stand in it beside their shades."""
    classes, confusion = result.measured.index.classes, result.confusion
    others = len(classes) > len(shown)
    unreadable = bool(confusion[:, -1].any())
    extra = [*(["other"] if others else []), *(["unreadable"] if unreadable else [])]
    head = [tag("th", "class", scope="col")]
    head += [
        tag("th", str(label + 1), tag("span", f" {classes[label]}", class_="hidden"), scope="col")
        for label in shown
    ]
    head += [tag("th", text, scope="col") for text in extra]
    rows = []
    for label in shown:
        counts = [int(confusion[label, answer]) for answer in shown]
        if others:
            counts.append(int(confusion[label, :-1].sum()) - sum(counts))
        if unreadable:
            counts.append(int(confusion[label, -1]))
        videos = max(1, int(confusion[label].sum()))
        own = list(shown).index(label)
        cells = [_cell(count, videos, right=at == own) for at, count in enumerate(counts)]
        title = joined([f"{label + 1} ", name(classes[label])])
        rows.append(tag("tr", tag("th", title, scope="row"), *cells))
    caption = "Videos by class and answer; framed cells are right, a fuller shade is a larger share"
    if others:
        part = f"The {len(shown)} of {len(classes)} classes with the most frequent confusions"
        caption = f"{part}. {caption}"
    inner = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
        class_="matrix",
    )
    return scrolling(inner, label=f"Confusion matrix of {result.name}")


def _cell(count: int, videos: int, *, right: bool) -> Markup:
    kinds = [*(["right"] if right else []), *([] if count else ["none"])]
    return tag(
        "td",
        str(count),
        class_=" ".join(kinds) or None,
        style=f"--share:{count / videos:.2f}" if count else None,
    )


def _pairs_table(result: RunResult, pairs: Sequence[tuple[int, int, int]]) -> Markup:
    classes = result.measured.index.classes
    rows = [
        (name(classes[row]), name(classes[column]), str(count), str(result.classes[row].videos))
        for row, column, count in pairs[:PAIRS]
    ]
    caption = (
        f"{len(rows)} of {len(pairs)} pairs of class and wrong answer, the most frequent first"
    )
    header = ["class", "taken for", "times", "videos of the class"]
    return table(caption, header, rows, label=f"Confused pairs of {result.name}")


def _result_row(result: RunResult, shares: Sequence[str]) -> list[Content | None]:
    figures = result.json
    what = tag("small", f"{figures['role']}, {figures['size']} px")
    agreement = figures.get("agreement")
    return [
        joined([name(result.name), what]),
        *(_share(figures[key], figures["intervals"][key]) for key in shares),
        None if agreement is None else _share(agreement, figures["intervals"]["agreement"]),
        number_text(figures["calibration_error"]),
        f"{figures['gmacs_per_video']:.3f}",
        f"{figures['parameters']:,}",
        str(figures["failed"]),
    ]


def _share(value: float | None, interval: Mapping[str, Any]) -> Markup:
    return joined([number_text(value), tag("small", interval_text(interval))])


def _bounds(interval: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if interval["low"] is None else (interval["low"], interval["high"])
