"""JSON within bounds: what is refused, and that all else is as Python's own parser has it."""

import io
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskd.common.parsing import json_text
from reskd.common.parsing.json_text import (
    MOST_DEPTH,
    MOST_VALUES,
    bounded_lines,
    parse_json,
    read_bounded,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_value_that_was_written_is_read(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.text() | st.binary())
def test_any_text_is_read_or_refused_with_value_error(text: str | bytes) -> None:
    with suppress(ValueError):
        value = parse_json(text)
        written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        assert parse_json(written.encode("utf-8", "surrogateescape")) == value


@pytest.mark.parametrize("text", [b'"caf\xe9"', '"caf\\udce9"'])
def test_name_that_is_not_utf8_is_kept(text: str | bytes) -> None:
    assert parse_json(text) == "caf\udce9"


def test_brackets_up_to_the_bound_are_read() -> None:
    assert parse_json("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    wide: list[list[list[int]]] = [[[]]] * 2000
    assert parse_json(json.dumps(wide)) == wide


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[" * 100_000, "deep inside each other", id="deep and open"),
        pytest.param('{"a":' * 70 + "1" + "}" * 70, "more than 64 deep", id="deep"),
        pytest.param("[" + "[]," * MOST_VALUES + "0]", "values, more than", id="many"),
        pytest.param("[NaN]", "NaN, which is no JSON", id="nan"),
        pytest.param("-Infinity", "-Infinity", id="infinity"),
        pytest.param("[1e400]", "beyond float64: 1e400", id="large float"),
        pytest.param(str(1 << 63), "more than 64 bits: 92233", id="large integer"),
        pytest.param("-" + "9" * 9000, r"more than 64 bits: -999.*\.\.\.", id="very long integer"),
        pytest.param('["\\ud83d"]', "half a character", id="half a character"),
        pytest.param('{"\\ud800": 1}', "half a character", id="half a character in a key"),
        pytest.param("{'a': 1}", "Expecting property name", id="python"),
        pytest.param("", "Expecting value", id="empty"),
    ],
)
def test_text_beyond_a_bound_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 300


def test_file_longer_than_its_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ValueError, match="1099511627776 bytes, more than the 10 read"):
        read_bounded(path, 10)
    os.truncate(path, 10)
    assert read_bounded(path, 10) == bytes(10)


def test_line_longer_than_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MOST_LINE_BYTES", 5)
    assert list(bounded_lines(io.BytesIO(b"1234\n\n1234"))) == [
        (1, b"1234"),
        (2, b""),
        (3, b"1234"),
    ]
    with pytest.raises(ValueError, match="line 2 has more than 5 bytes"):
        list(bounded_lines(io.BytesIO(b"1\n123456\n")))
