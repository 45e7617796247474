"""What opening videos told, kept beside an index that is being made: `INDEX.probes.jsonl`.

    {"decoder": {"av": "17.1.0", …}, "format": "reskd-probes/1"}
    {"fps": 25.0, "mtime_ns": …, "num_frames": 250, "path": "/data/a.mp4", "size": 81920}

One line per video that could be read, appended in one write, so only the last line can be torn: it
is not read, and the next one begins on a line of its own. A line counts while the file has the size
and time it had. Videos that could not be read are not kept: they are tried again. The file is not
synced; a power cut costs some probes and nothing else. When the index is whole it is removed.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

FORMAT = "reskd-probes/1"


class FileState(NamedTuple):
    """What tells a file from what it was."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownVideo:
    """A line of the journal."""

    path: str
    """Absolute."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of its last change, in nanoseconds."""
    num_frames: int
    fps: float


class ProbeJournal:
    """Videos opened before, and those being opened. For one thread."""

    def __init__(self, path: Path, decoder: Mapping[str, str]) -> None:
        """Open the journal of an earlier run, or begin one.

        Args:
            path: The journal; its folder is made.
            decoder: Names and versions. What another decoder said does not count.
        """
        self.path = path
        header = {"format": FORMAT, "decoder": dict(decoder)}
        content = path.read_bytes() if path.is_file() else b""
        *lines, torn = content.split(b"\n")
        objects = [_object(line) for line in lines]
        goes_on = bool(objects) and objects[0] == header
        self._known = {
            known.path: known
            for known in map(_known_video, objects[1:] if goes_on else [])
            if known is not None
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if goes_on else os.O_TRUNC)
        self._file = os.open(path, flags, 0o666)
        if not goes_on:
            self._append(header)
        elif torn:
            os.write(self._file, b"\n")

    def __len__(self) -> int:
        return len(self._known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def known(self, path: Path) -> KnownVideo | None:
        """What an earlier run learnt about a file that has not changed since."""
        known = self._known.get(os.fspath(path))
        return known if known and state_of(path) == (known.size, known.mtime_ns) else None

    def add(self, path: Path, state: FileState, *, num_frames: int, fps: float) -> None:
        """Keep what was learnt about a file in the given state."""
        video = KnownVideo(path=os.fspath(path), **state._asdict(), num_frames=num_frames, fps=fps)
        self._append(asdict(video))

    def remove(self) -> None:
        """Delete the file: the index holds all of it now."""
        self.path.unlink(missing_ok=True)

    def _append(self, value: Mapping[str, Any]) -> None:
        # ASCII keeps names that are not valid UTF-8; one write, so that no line is ever mixed.
        os.write(self._file, json.dumps(value, sort_keys=True).encode("ascii") + b"\n")


def journal_file(index: Path) -> Path:
    """Where the journal of an index lies: beside it."""
    return index.with_name(f"{index.name}.probes.jsonl")


def state_of(path: Path) -> FileState | None:
    """Size and time of a file or folder; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return FileState(status.st_size, status.st_mtime_ns)


def _object(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _known_video(value: Any) -> KnownVideo | None:
    names = {field.name for field in fields(KnownVideo)}
    return KnownVideo(**value) if isinstance(value, dict) and set(value) == names else None
