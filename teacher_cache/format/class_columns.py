"""Which class scores of a cache are those of which class of an index: by names and by videos."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

LEAST_VIDEOS: Final = 3
"""Of a name, before and after, to tell that it was passed on: two corrected labels are none."""


def class_columns(
    cached_classes: Sequence[str],
    classes: Sequence[str],
    labels: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> tuple[int, ...] | None:
    """For each class of an index, the column of the cached class scores that is its own.

    A class has the column of its name, unless the name was passed on: that column shares more
    videos with another class, and the class with another column. Any other class has the
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
    shared = _SharedVideos(pairs)
    place = {name: column for column, name in enumerate(cached_classes)}
    named = {number: place[name] for number, name in enumerate(classes) if name in place}
    column_of = {
        number: column for number, column in named.items() if not shared.passed_on(column, number)
    }
    columns = set(range(len(classes))) - set(column_of.values())
    numbers = set(range(len(classes))) - column_of.keys()
    for column, number in shared.mostly():
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


class _SharedVideos:
    """How many videos that both sides know have a class before, a class after, or both."""

    def __init__(self, pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> None:
        known = [(before, after) for before, after in pairs if before and after]
        self.of_column = Counter(column for before, _ in known for column in before)
        self.of_number = Counter(number for _, after in known for number in after)
        self.of_both = Counter(pair for before, after in known for pair in product(before, after))
        self._most_of_column: Counter[int] = Counter()
        self._most_of_number: Counter[int] = Counter()
        for (column, number), both in self.of_both.items():
            self._most_of_column[column] = max(both, self._most_of_column[column])
            self._most_of_number[number] = max(both, self._most_of_number[number])

    def mostly(self) -> list[tuple[int, int]]:
        """Column and number of classes that share most of the videos that either has."""
        return [
            (column, number)
            for (column, number), both in self.of_both.items()
            if 2 * both > self.of_column[column] + self.of_number[number] - both
        ]

    def passed_on(self, column: int, number: int) -> bool:
        """Whether a name stayed and its videos did not: both sides share more with others.

        Or all that it had are of other classes, and it has none.
        """
        had, has = self.of_column[column], self.of_number[number]
        both = self.of_both[column, number]
        went = both < self._most_of_column[column]
        came = both < self._most_of_number[number]
        return went and (came or not has) and had + has >= LEAST_VIDEOS
