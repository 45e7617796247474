"""Stored class scores belong to the classes of an index, whatever these are called now."""

import pytest

from reskd.teacher_cache.format.class_columns import class_columns


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        ("abc", [], (0, 1, 2)),
        ("cab", [], (2, 0, 1)),
        ("axc", [], (0, 1, 2)),
        ("acx", [], (0, 2, 1)),
        ("xyc", [], (0, 1, 2)),
        ("yxc", [([0], [1]), ([1], [0])], (1, 0, 2)),
        ("cxy", [([0], [1]), ([1], [2])], (2, 0, 1)),
        ("cxy", [([0], [1])], (2, 0, 1)),
        ("cxy", [*[([0], [1])] * 2, ([0], [2]), *[([1], [2])] * 2], (2, 0, 1)),
        ("cxy", [([0], [1]), ([0], [1]), ([0], [2])], None),
        ("cxy", [([0], [1]), ([0], [2])], None),
        ("cxy", [([0], [1]), ([1], [1])], None),
        ("cxy", [], None),
        ("bca", [*[([0], [0])] * 2, *[([1], [1])] * 2, *[([2], [2])] * 2], (0, 1, 2)),
        ("abc", [*[([0], [1])] * 2, *[([1], [0])] * 2], (1, 0, 2)),
        ("abc", [([0], [1]), ([1], [0])], (0, 1, 2)),
        ("abc", [([0], [1]), ([1], [1]), ([1], [1])], (0, 1, 2)),
        ("abc", [([0], [1])] * 3, None),
        ("abc", [*[([0], [1])] * 3, ([1], [0])], (1, 0, 2)),
        ("abc", [*[([0, 1], [0, 1])] * 4, *[([0], [1])] * 2, ([1], [0])], None),
        ("abc", [*[([0, 1], [0, 1])] * 4, ([0, 1], [1]), ([1], [0, 1])], (0, 1, 2)),
        ("bcx", [*[([0], [0])] * 2, *[([1], [2])] * 2, *[([2], [1])] * 2], (0, 2, 1)),
        ("bcx", [([0], [0])], None),
        ("abx", [([2], [0]), ([0], [0])], None),
        ("abx", [([2], ()), ((), [2])], None),
        ("abx", [([2], ())], None),
        ("abx", [([0, 2], [0, 2]), ([0], [0])], (0, 1, 2)),
        ("xyc", [([0, 1], [0, 1]), ([0, 1], [0, 1])], None),
        ("ab", [], None),
        ("abcd", [], None),
    ],
    ids=[
        *("same", "other-order", "renamed", "renamed-and-sorted", "two-renamed-in-place"),
        *("two-renamed-and-swapped", "two-renamed-and-sorted", "one-seen-one-left", "majority"),
        "minority-of-another",
        *("half-and-half", "two-became-one", "nothing-tells", "names-passed-round"),
        *("names-swapped", "two-labels-corrected", "small-class-corrected", "emptied"),
        *("small-class-swapped", "swapped-of-two-labels", "labels-taken-and-given"),
        "names-passed-down",
        *("name-passed-on-and-class-gone", "merged-beside-a-new-class", "replaced-by-new-videos"),
        *("taken-out", "two-labels-renamed", "always-together", "one-less", "one-more"),
    ],
)
def test_columns_of_classes_that_were_renamed_or_listed_in_another_order(
    classes: str, labels: list[tuple[list[int], list[int]]], expected: tuple[int, ...] | None
) -> None:
    assert class_columns("abc", classes, labels) == expected
