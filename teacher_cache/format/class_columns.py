"""Which class scores of a cache are those of which class of an index: by names and by videos."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final

LEAST_VIDEOS: Final = 2
"""That say that a name was passed on: one corrected label does not outweigh a name."""


def class_columns(
    cached_classes: Sequence[str],
    classes: Sequence[str],
    labels: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> tuple[int, ...] | None:
    """For each class of an index, the column of the cached class scores that is its own.

    A class has the column of its name, unless names were passed on: most videos of that column are
    of another class now, and most of the class were of another column. Any other class has the
    column with which it shares most videos. Classes that are left have the column in the same
    place, or the only one left, if no video tells more of either.

    Args:
        cached_classes: Names in the order of the cached scores.
        classes: Names of the index.
        labels: Of every video: numbers of cached classes, none if it is not cached, and of the
            index's, none if it is not listed.

    Returns:
        One column per class of the index, each once; None if they do not belong together one to
        one, or nothing tells how.
    """
    if len(cached_classes) != len(classes):
        return None
    pairs = list(labels)
    shared = _mostly_shared(pairs)
    place = {name: column for column, name in enumerate(cached_classes)}
    named = {number: place[name] for number, name in enumerate(classes) if name in place}
    column_of = {
        number: column
        for number, column in named.items()
        if (column, number) in shared or not _passed_on(column, number, shared)
    }
    columns = set(range(len(classes))) - set(column_of.values())
    numbers = set(range(len(classes))) - column_of.keys()
    for column, number in shared:
        if column in columns and number in numbers:
            if number in column_of or column in column_of.values():
                return None  # of classes always shown together, both renamed: which is which?
            column_of[number] = column
    columns -= set(column_of.values())
    numbers -= column_of.keys()
    seen_columns = {column for before, _ in pairs for column in before}
    seen_numbers = {number for _, after in pairs for number in after}
    if columns & seen_columns or numbers & seen_numbers:
        return None  # a class was split, merged with another, taken out or added
    if len(numbers) == 1:
        column_of[numbers.pop()] = columns.pop()
    elif columns == numbers:
        column_of |= {number: number for number in numbers}
    else:
        return None
    return tuple(column_of[number] for number in range(len(classes)))


def _mostly_shared(
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> dict[tuple[int, int], int]:
    """Column and number of classes that share most of the videos that either has: how many."""
    of_column: Counter[int] = Counter()
    of_number: Counter[int] = Counter()
    of_both: Counter[tuple[int, int]] = Counter()
    for before, after in pairs:
        if before and after:
            of_column.update(before)
            of_number.update(after)
            of_both.update(product(before, after))
    return {
        (column, number): both
        for (column, number), both in of_both.items()
        if 2 * both > of_column[column] + of_number[number] - both
    }


def _passed_on(column: int, number: int, shared: Mapping[tuple[int, int], int]) -> bool:
    """Whether the videos of both went to and came from classes of other names."""
    told = [pair for pair, videos in shared.items() if videos >= LEAST_VIDEOS]
    went = any(before == column and after != number for before, after in told)
    came = any(before != column and after == number for before, after in told)
    return went and came
