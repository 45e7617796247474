"""From labels as they are written to positions in a class list, never shifted silently."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from reskd.common.dataset.importing.annotations import Annotations, Ignored, Row
from reskd.common.errors import DataError

LabelKind = Literal["names", "numbers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRules:
    """What the user said about classes and their numbers."""

    classes: tuple[str, ...] | None = None
    """Class names in the order of the labels."""
    num_classes: int | None = None
    """How many classes there are, so that ones without videos show."""
    labels: LabelKind | None = None
    """What labels in digits are; None: numbers, and what may be names is refused."""
    labels_from: int | None = None
    """Number of the first class, 0 or 1; None: 0, and lists that look otherwise are refused."""
    only_classes: bool = False
    """Leave out rows of classes that `classes` does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Rows with positions in the class list."""

    classes: tuple[str, ...]
    rows: tuple[tuple[Row, tuple[int, ...]], ...]
    ignored: tuple[Ignored, ...]
    """Those of the annotations and those left out here."""


def label_rows(annotations: Annotations, rules: LabelRules) -> Labelled:
    """Turn every label into a position in the class list.

    Raises:
        DataError: If a label is outside it, or the numbers do not begin as they are said to.
    """
    classes = rules.classes or annotations.classes
    if rules.only_classes and classes is None:
        raise DataError("--only-classes needs --classes FILE, the classes to keep")
    if classes and rules.num_classes not in {None, len(classes)}:
        raise DataError(
            f"the class list has {len(classes)} names and --num-classes says {rules.num_classes}"
        )
    if not annotations.rows:
        raise DataError("the annotations hold no labelled video")
    if not annotations.numbered:
        if rules.labels == "numbers":
            raise DataError("--labels numbers was given, and the labels are not all in digits")
        return _by_name(annotations, rules, classes)
    if rules.labels == "names" or (rules.labels is None and _are_names(annotations, classes)):
        return _by_name(annotations, rules, classes)
    return _by_number(annotations, rules, classes)


def _are_names(annotations: Annotations, classes: tuple[str, ...] | None) -> bool:
    """Whether labels in digits are names from the class list; a user's own table may have such.

    Raises:
        DataError: If they are names there and positions in it, and these differ.
    """
    written = {label for row in annotations.rows for label in row.labels}
    position = {name: label for label, name in enumerate(classes or ())}
    if not written <= position.keys():
        return False
    other = [label for label in written if position[label] != int(label) < len(position)]
    if other and all(int(label) < len(position) for label in written):
        raise DataError(
            f"label {min(other)} is the name of class {position[min(other)]} of the class list and "
            f"the position of {list(position)[int(min(other))]!r}: say --labels names or --labels "
            "numbers"
        )
    return True


def _by_number(
    annotations: Annotations, rules: LabelRules, classes: tuple[str, ...] | None
) -> Labelled:
    if rules.only_classes:
        raise DataError("--only-classes needs labels that are names; here they are numbers")
    numbers = [int(label) for row in annotations.rows for label in row.labels]
    first = annotations.first_label if rules.labels_from is None else rules.labels_from
    if first is None:
        if min(numbers) > 0:
            raise DataError(
                f"no video has label 0; the labels are {min(numbers)} to {max(numbers)}. If they "
                "count from 1, say --labels-from 1; if class 0 merely has no video here, say "
                "--labels-from 0; if they are names, say --labels names. Nothing is shifted "
                "without being told"
            )
        first = 0
    stated = rules.num_classes or classes or rules.labels or rules.labels_from is not None
    if annotations.may_be_names and not stated:
        _refuse_gaps(set(numbers), first)
    num_classes = rules.num_classes or (len(classes) if classes else max(numbers) - first + 1)
    last = first + num_classes - 1
    for row in annotations.rows:
        for label in row.labels:
            if not first <= int(label) <= last:
                raise DataError(
                    f"{row.where} has label {label}; with {num_classes} classes counted from "
                    f"{first} labels are {first} to {last}" + _hint(int(label), first, last)
                )
    rows = tuple(
        (row, tuple(dict.fromkeys(int(label) - first for label in row.labels)))
        for row in annotations.rows
    )
    names = classes or tuple(str(label) for label in range(num_classes))
    return Labelled(classes=names, rows=rows, ignored=annotations.ignored)


def _refuse_gaps(numbers: set[int], first: int) -> None:
    """Refuse numbers of which many between do not occur: 1995 and 2003 are names of classes."""
    absent = max(numbers) - first + 1 - len(numbers)
    if absent > 0:
        raise DataError(
            f"the labels are {len(numbers)} different numbers up to {max(numbers)}, so {absent} "
            "classes would have no video. If they are names of classes, say --labels names; if "
            "they are numbers of classes, give --classes FILE, --num-classes or --labels numbers"
        )


def _hint(label: int, first: int, last: int) -> str:
    if first == 0 and label == last + 1:
        return ". If the labels count from 1, say --labels-from 1"
    return (
        ". Is the class list, or --num-classes, that of this data set? If the labels are names, "
        "say --labels names"
    )


def _by_name(
    annotations: Annotations, rules: LabelRules, classes: tuple[str, ...] | None
) -> Labelled:
    if rules.labels_from is not None:
        raise DataError("--labels-from is for labels that are numbers; here they are names")
    found = {label for row in annotations.rows for label in row.labels}
    if classes is None:
        # Names in digits in the order of their numbers: 9 before 10.
        digits = annotations.numbered
        classes = tuple(sorted(found, key=lambda name: (int(name) if digits else 0, name)))
        if rules.num_classes not in {None, len(classes)}:
            raise DataError(
                f"the annotations name {len(classes)} classes and --num-classes says "
                f"{rules.num_classes}: the numbers of the classes would not be those of the whole "
                "data set. Give all names in order: --classes FILE"
            )
    position = {name: label for label, name in enumerate(classes)}
    rows: list[tuple[Row, tuple[int, ...]]] = []
    ignored = list(annotations.ignored)
    for row in annotations.rows:
        known = [position[label] for label in row.labels if label in position]
        if len(known) < len(row.labels) and not rules.only_classes:
            raise _unknown(row, next(name for name in row.labels if name not in position), classes)
        if known:
            rows.append((row, tuple(dict.fromkeys(known))))
        else:
            ignored.append(Ignored(where=row.where, reason="of a class that was not asked for"))
    if not rows:
        raise DataError(
            f"none of the {len(classes)} classes asked for occurs; the annotations have classes "
            f"such as {min(found)!r}, the class list such as {classes[0]!r}"
        )
    return Labelled(classes=classes, rows=tuple(rows), ignored=tuple(ignored))


def _unknown(row: Row, label: str, classes: Sequence[str]) -> DataError:
    close = get_close_matches(label, classes, 1)
    like = f"; the nearest is {close[0]!r}" if close else ""
    return DataError(
        f"{row.where} has class {label!r}, which is not one of the {len(classes)} of the class "
        f"list{like}. Fix one of the two, or give --only-classes to leave such rows out"
    )


def with_default_classes(rules: LabelRules, num_classes: int) -> LabelRules:
    """The rules, with a number of classes where the user gave neither number nor names."""
    if rules.classes is not None or rules.num_classes is not None:
        return rules
    return replace(rules, num_classes=num_classes)
