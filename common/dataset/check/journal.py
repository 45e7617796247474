"""Verdicts of a check that is under way, kept beside the index: `INDEX.check.jsonl`.

    {"format": "reskd-check/1", "index": "sha256…", "clip": {…}, …}
    {"frames": 250, "id": "run/a.mp4", "message": "", "mtime_ns": …, "size": 81920, "verdict": "ok"}

One line per video, each appended in one write, so that only the last can be torn. A line counts
while the file has the size and the time of change that it had before it was tried. The file is not
synced: a power cut costs some verdicts and nothing else. When the check is through it is removed.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from pydantic import TypeAdapter, ValidationError

from reskd.common.dataset.check.verdicts import Finding
from reskd.common.storage.atomic_write import atomic_write

FORMAT: Final = "reskd-check/1"


_FINDING: Final = TypeAdapter(Finding)  # not one per line


class FileState(NamedTuple):
    """What tells a file from what it was; zeros if there is none."""

    size: int = 0
    mtime_ns: int = 0


def state_of(path: Path) -> FileState:
    """Size and time of the last change."""
    try:
        status = path.stat()
    except OSError:
        return FileState()
    return FileState(status.st_size, status.st_mtime_ns)


def journal_file(index: Path) -> Path:
    """Where the verdicts of a check under way lie: beside the index."""
    return index.with_name(f"{index.name}.check.jsonl")


class CheckJournal:
    """Findings of an earlier run, and those being made. For one thread."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open the journal of an earlier run, or begin one.

        Args:
            path: The journal.
            settings: What was checked and how, as JSON; an earlier run that differs is forgotten.
        """
        self.path = path
        header = {"format": FORMAT, **settings}
        content = path.read_bytes() if path.is_file() else b""
        lines = content.split(b"\n")[:-1]  # what follows the last line end is torn
        goes_on = bool(lines) and _parsed(lines[0]) == json.loads(json.dumps(header))
        kept = lines[1:] if goes_on else []
        self._known = {id_: known for id_, known in map(_known, kept) if known is not None}
        # Written anew, so that a line is never appended to a torn one.
        first = json.dumps(header, sort_keys=True).encode("ascii")
        atomic_write(path, b"".join(line + b"\n" for line in [first, *kept]))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def known(self, id_: str, state: FileState) -> Finding | None:
        """The finding of an earlier run about a file that has not changed since."""
        known = self._known.get(id_)
        return known[1] if known is not None and known[0] == state else None

    def add(self, id_: str, state: FileState, finding: Finding) -> None:
        """Keep a finding about a file in the given state."""
        value = {"id": id_, **state._asdict(), **asdict(finding)}
        # ASCII keeps names that are not valid UTF-8; one write, so that no lines mix.
        os.write(self._file, json.dumps(value, sort_keys=True).encode("ascii") + b"\n")

    def remove(self) -> None:
        """Delete it: the check is through."""
        self.path.unlink(missing_ok=True)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _known(line: bytes) -> tuple[str, tuple[FileState, Finding] | None]:
    """Id and content of a line; a line that is not one of ours counts as absent."""
    value = _parsed(line)
    try:
        id_, state = str(value.pop("id")), FileState(value.pop("size"), value.pop("mtime_ns"))
        return id_, (state, _FINDING.validate_python(value))
    except (AttributeError, KeyError, TypeError, ValidationError):
        return "", None
