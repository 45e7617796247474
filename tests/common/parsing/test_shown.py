"""What others wrote is never shown at length."""

from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter, ValidationError

from reskd.common.parsing.problems import problem_text
from reskd.common.parsing.shown import MOST_CHARACTERS, shortened, shown


@dataclass
class Rows:
    """Many numbers."""

    rows: list[int]


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, ["x" * 1000] * 1000, {str(n): [n] * 99 for n in range(999)}, 1 << 90_000],
    ids=["text", "list", "mapping", "integer"],
)
def test_long_value_is_shown_by_its_beginning(value: object) -> None:
    assert 5 < len(shown(value)) < 700


@pytest.mark.parametrize("value", ["run/a b.mp4", [1, 2.5, None], {"a": True}])
def test_short_value_is_shown_as_it_is(value: object) -> None:
    assert shown(value) == repr(value)


def test_shortened_text_keeps_both_ends_and_counts_the_rest() -> None:
    text = shortened("a" * 9000 + "z" * 3000)
    assert text.startswith("aaa")
    assert text.endswith("zzz")
    assert "(4000 characters left out)" in text
    assert len(text) < MOST_CHARACTERS + 60
    assert shortened(text[:MOST_CHARACTERS]) == text[:MOST_CHARACTERS]


def test_many_findings_are_one_line_and_their_number() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Rows).validate_python({"rows": ["x" * 500] * 2000})
    text = problem_text(caught.value)
    assert text.startswith("rows.0: Input should be a valid integer")
    assert text.endswith("(and 1999 more such findings)")
    assert len(text) < 300
