"""YAML within bounds: what is refused, and that all else is what PyYAML makes of it."""

import math
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reskd.common.parsing.yaml_text import MOST_CHARACTERS, MOST_VALUES, parse_yaml
from tests.common.parsing.test_json_text import VALUES

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


@given(VALUES)
def test_value_that_was_written_is_read(value: object) -> None:
    text = yaml.safe_dump(value)
    if "\\0" not in text:
        assert parse_yaml(text) == yaml.safe_load(text) == value


@given(st.text(alphabet="ab: -[]{},&*!?|>'\"%@#.\n0123456789_~<=ex\\"))
def test_any_text_is_read_or_refused_with_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_yaml(text)


def test_aliases_within_the_bound_are_read() -> None:
    tree = parse_yaml("a: &a {lr: 1}\nb: {<<: *a, c: 2}\nd: [*a, *a]")
    assert tree == {"a": {"lr": 1}, "b": {"lr": 1, "c": 2}, "d": [{"lr": 1}, {"lr": 1}]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[" * 3000, "more than 64 deep", id="deep"),
        pytest.param("a: " * 3000, "mapping values are not allowed", id="deep on a line"),
        pytest.param(LAUGHS, "more than 10000 values, aliases counted", id="laughs"),
        pytest.param("a: &a [*a]", "more than 10000 values", id="inside itself"),
        pytest.param("- 1\n" * (MOST_VALUES + 1), "more than 10000 values", id="many"),
        pytest.param("#" * (MOST_CHARACTERS + 1), "262145 characters, more than", id="long"),
        pytest.param("a: " + "9" * 5000, "integer of more than 64 bits", id="long integer"),
        pytest.param("a: 0x" + "f" * 90, "integer of more than 64 bits", id="hexadecimal"),
        pytest.param("a: 1" + ":00" * 30, "integer of more than 64 bits", id="base 60"),
        pytest.param('a: "\\0"', "NUL", id="nul"),
        pytest.param('a: "\\ud800"', "half a character", id="half a character"),
        pytest.param("a: 1\na: 2", "key 'a' appears twice", id="key twice"),
        pytest.param("a: !!bool maybe", "does not fit its tag", id="no boolean"),
        pytest.param("a: !!int ''", "does not fit its tag", id="no integer"),
        pytest.param("a: !!timestamp x", "does not fit its tag", id="no time"),
        pytest.param("a: 2026-13-45", "month must be in 1..12", id="no date"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "could not determine", id="code"),
        pytest.param("'" + "x" * 200_000, "quoted scalar", id="long and open"),
    ],
)
def test_text_beyond_a_bound_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 1200


def test_not_a_number_is_left_to_the_field() -> None:
    assert math.isnan(parse_yaml(".nan"))
