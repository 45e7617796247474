"""What a long command found about each video so far, kept beside an index until the command ends.

    {"format": "reskd-check/2", "index": "sha256…", "clip": {…}, …}
    {"frames": 250, "message": "", "mtime_ns": …, "size": 81920, "verdict": "ok", "video": "a.mp4"}

The first line says what the findings depend on. Then one line per video, each appended in one
write, so only the last can be torn. A line counts while the file has the size and the time of
change that it had before it was opened. Nothing is synced: a power cut costs some findings and
nothing else.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

from pydantic import TypeAdapter

from reskd.common.parsing.json_text import parse_json
from reskd.common.storage.kinds import read_file
from reskd.common.storage.system_errors import writing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Entry = TypeVar("Entry", bound="DataclassInstance")
"""A dataclass of plain values: what is kept about a video."""


class FileState(NamedTuple):
    """What tells a file from what it was; zeros if there is none."""

    size: int = 0
    """Bytes."""
    mtime_ns: int = 0
    """Time of its last change, in nanoseconds."""


def state_of(path: Path) -> FileState:
    """Size and time of a file or folder."""
    try:
        status = path.stat()
    except OSError:
        return FileState()
    return FileState(status.st_size, status.st_mtime_ns)


class Journal(Generic[Entry]):
    """Findings of an earlier run, and those being made; several threads may add to them."""

    def __init__(self, path: Path, entry: type[Entry], header: Mapping[str, Any]) -> None:
        """Open the journal of an earlier run, or begin one.

        Args:
            path: The journal; its folder is made.
            entry: What is kept about a video.
            header: What the findings depend on, as JSON; a journal with another one is replaced.
        """
        self.path = path
        content = read_file(path) if path.exists() else b""
        first, *lines, torn = content.split(b"\n") if b"\n" in content else (b"", b"")
        begun = _line(header)
        goes_on = first + b"\n" == begun
        self._entry = TypeAdapter(entry)
        self._known = dict(map(self._parsed, lines if goes_on else []))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if goes_on else os.O_TRUNC)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, flags, 0o666)
            if not goes_on:
                os.write(self._file, begun)
            elif torn:
                os.write(self._file, b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def known(self, video: str, state: FileState) -> Entry | None:
        """What an earlier run found about a video whose file has not changed since."""
        then, entry = self._known.get(video, (None, None))
        return entry if then == state else None

    def add(self, video: str, state: FileState, entry: Entry) -> None:
        """Keep what was found about a video whose file was in the given state."""
        with writing(self.path):
            os.write(self._file, _line({"video": video, **state._asdict(), **asdict(entry)}))

    def remove(self) -> None:
        """Delete the file: its findings are kept elsewhere now."""
        self.path.unlink(missing_ok=True)

    def _parsed(self, line: bytes) -> tuple[str, tuple[FileState | None, Entry | None]]:
        """Video and finding of a line; one that is not ours is about no video."""
        try:
            value = parse_json(line)
            video, state = value.pop("video"), FileState(value.pop("size"), value.pop("mtime_ns"))
            return str(video), (state, self._entry.validate_python(value))
        except (ValueError, AttributeError, KeyError, TypeError):
            return "", (None, None)


def journal_file(index: Path, task: str) -> Path:
    """Where the journal of a task lies: beside the index."""
    return index.with_name(f"{index.name}.{task}.jsonl")


def _line(value: Mapping[str, Any]) -> bytes:
    # ASCII keeps names that are not valid UTF-8.
    return json.dumps(value, sort_keys=True).encode("ascii") + b"\n"
