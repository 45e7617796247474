"""What leaves for a person: names may hold anything, and none of it is obeyed."""

import json

import pytest

from reskd.common.cli.main import main
from reskd.common.console import Lines, aligned, emit, in_lines, one_line, say

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \r\n# heading\t\x00\x9b2J\u202egnp.\u2028end"
ESCAPED = r"\x1b[31mred\x1b]0;title\x07 \r\n# heading\t\x00\x9b2J\u202egnp.\u2028end"


@pytest.mark.parametrize(
    "text",
    ["plain", "tänzeln", "跳 \u3000跳", "می\u200cروم", "👩\u200d🚀", r"C:\new", "caf\udce9"],
    ids=ascii,
)
def test_letters_of_any_language_are_left_as_they_are(text: str) -> None:
    assert one_line(text) == text


def test_characters_that_control_something_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(HOSTILE) == ESCAPED
    say(f"unreadable: {HOSTILE}")
    emit({}, as_json=False, text=HOSTILE)
    captured = capsys.readouterr()
    assert captured.err == f"unreadable: {ESCAPED}\n"
    assert captured.out == f"{ESCAPED}\n"


def test_line_breaks_that_are_ours_are_kept_and_no_others() -> None:
    text = in_lines("head", in_lines(f"  {HOSTILE}", "  b"), "a\nb")
    assert text.split("\n") == ["head", f"  {ESCAPED}", "  b", r"a\nb"]
    assert isinstance(text, Lines)
    assert one_line(f"{in_lines('a', 'b')}") == r"a\nb"  # once it is part of another text


def test_table_has_a_line_for_each_row_and_its_columns_stay_aligned() -> None:
    lines = aligned([["class", "videos"], ["a\nb\x1b[2J", "1"], ["c", "10"]])
    assert lines == [
        "class        videos",
        r"a\nb\x1b[2J       1",
        "c                10",
    ]


def test_json_is_ascii_that_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"name": HOSTILE}, as_json=True, text="")
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"name": HOSTILE}


@pytest.mark.parametrize(
    "words",
    [
        (HOSTILE,),
        ("config", "show", HOSTILE.replace("\x00", "")),
        ("predict", HOSTILE.replace("\x00", ""), "a.mp4"),
        ("models", "show", HOSTILE),
        ("cache", "info", HOSTILE.replace("\x00", "")),
        ("models", "list", f"--{HOSTILE}"),
        ("config", "show", "demo", "-o", HOSTILE),
        ("config", "show", "demo", "-o", f"{HOSTILE}=1"),
    ],
    ids=["command", "experiment", "run", "model", "cache", "option", "override", "key"],
)
def test_words_that_were_typed_are_shown_escaped(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (2, 3, 4)
    said = "".join(capsys.readouterr())
    assert r"\x1b[31mred" in said
    assert "# heading" in said
    assert [line for line in said.split("\n") if line.startswith("# heading")] == []
    assert one_line(said.replace("\n", "")) == said.replace("\n", "")


def test_usage_that_click_writes_keeps_its_own_line_breaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Usage: reskd predict")
    assert "\nError: Missing argument" in said
