"""The journal goes on after any interruption and never speaks of a file that changed since."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reskd.common.storage.journal import FileState, Journal, journal_file, state_of

HEADER = {"format": "x/1", "decoder": {"av": "1"}, "sizes": (1, 2)}
STATE = FileState(1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What a journal of these tests keeps."""

    frames: int
    text: str = ""


def opened(path: Path, **changes: Any) -> Journal[Note]:
    return Journal(path, Note, {**HEADER, **changes})


def test_journal_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.jsonl"
    notes = {"a.mp4": Note(frames=8), "ü \udce4.mp4": Note(frames=9, text="caf\udce9")}
    with opened(path) as journal:
        for video, note in notes.items():
            journal.add(video, STATE, note)
    path.write_bytes(path.read_bytes()[:-7])
    with opened(path) as journal:
        assert [journal.known(video, STATE) for video in notes] == [notes["a.mp4"], None]
        journal.add("ü \udce4.mp4", STATE, notes["ü \udce4.mp4"])
    with opened(path) as journal:
        assert {video: journal.known(video, STATE) for video in notes} == notes
        assert journal.known("c.mp4", STATE) is None
        journal.remove()
    assert not path.exists()


def test_journal_forgets_a_file_that_changed_and_another_header(tmp_path: Path) -> None:
    video, path = tmp_path / "a.mp4", tmp_path / "x.jsonl"
    video.write_bytes(b"one")
    with opened(path) as journal:
        journal.add("a.mp4", state_of(video), Note(frames=3))
        journal.add("gone.mp4", state_of(tmp_path / "gone.mp4"), Note(frames=0))
    with opened(path) as journal:
        assert journal.known("a.mp4", state_of(video)) == Note(frames=3)
        assert journal.known("gone.mp4", FileState()) == Note(frames=0)
        assert journal.known("b.mp4", state_of(video)) is None
        video.write_bytes(b"another")
        assert journal.known("a.mp4", state_of(video)) is None
        journal.add("a.mp4", state_of(video), Note(frames=4))
    with opened(path) as journal:
        assert journal.known("a.mp4", state_of(video)) == Note(frames=4)
    with opened(path, decoder={"av": "2"}) as journal:
        assert journal.known("gone.mp4", FileState()) is None
    with opened(path) as journal:
        assert journal.known("gone.mp4", FileState()) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"no json", b'{"format": "x', b"\n\n[]\n", b"{}\n"],
)
def test_journal_that_is_none_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    for _ in range(2):
        with opened(path) as journal:
            journal.add("a", STATE, Note(frames=3))
    with opened(path) as journal:
        assert journal.known("a", STATE) == Note(frames=3)
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    "line", [b"[]", b"{}", b'{"video": 1}', b"\xff", b'{"video": "a", "size": 1}', b"", b"null"]
)
def test_journal_passes_over_lines_that_are_not_its_own(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    with opened(path) as journal:
        journal.add("b", STATE, Note(frames=1))
    path.write_bytes(path.read_bytes() + line + b"\n" + b'{"torn')
    with opened(path) as journal:
        assert journal.known("b", STATE) == Note(frames=1)
        assert journal.known("", FileState()) is None
        journal.add("c", STATE, Note(frames=2))
    with opened(path) as journal:
        assert journal.known("c", STATE) == Note(frames=2)


def test_journal_lies_beside_the_index(tmp_path: Path) -> None:
    assert journal_file(tmp_path / "a.jsonl", "check") == tmp_path / "a.jsonl.check.jsonl"
