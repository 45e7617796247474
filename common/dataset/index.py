r"""The video index: which videos there are, what they show, how long they are.

JSON Lines, one file: a header, then one object per video.

    {"classes": ["jump", "run"], "format": "reskd-index/1", "root": "videos", "sha256": "…"}
    {"content": {…}, "fps": 25.0, "id": "run/a b.mp4", "labels": [1], "num_frames": 250, …}

Why this and not CSV or a folder of files: names with spaces, quotes, commas or any script need no
rules of ours; a video may have several labels; a line per video diffs, greps and streams; one file
moves as one; and it opens with nothing but Python's json module, without torch.

The header proves the rest, so an edited index is noticed before it is mistaken for the one a cache
was made from.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os.path import normpath, relpath
from pathlib import Path
from typing import Any

from reskd.common.dataset.content import ContentFacts
from reskd.common.dataset.quarantine import quarantine_file, read_quarantine
from reskd.common.errors import DataError
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.records import canonical_json, digest

FORMAT = "reskd-index/1"
FIELD_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "path": str,
    "labels": list,
    "split": str,
    "num_frames": int,
    "fps": (int, float),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoEntry:
    """One video."""

    id: str
    """Name in every record, and key of every random draw about this video."""
    path: str
    """File, relative to the index's root, with forward slashes."""
    labels: tuple[int, ...]
    """Positions in the class list; at least one."""
    split: str
    """Name of the split it belongs to."""
    num_frames: int
    """Frames that can be asked for; 0 marks a video that could not be read when imported."""
    fps: float
    """Frames per second, averaged; 0.0 where the file does not say."""
    content: ContentFacts | None = None
    """Tells it from other videos whatever it is called; None in indexes written before there were
    such facts, and of a video that could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoIndex:
    """Videos by split, sorted by id within each; the position within a split is a video's row."""

    classes: tuple[str, ...]
    """Class names; a label is a position in this list."""
    root: Path
    """Folder that the paths of the entries start from."""
    videos: tuple[VideoEntry, ...]
    quarantine: Mapping[str, str] = field(default_factory=dict)
    """Reasons, by id, why videos must not be opened (quarantine.py). Not part of the index file."""

    def split(self, name: str) -> tuple[VideoEntry, ...]:
        """The videos of one split, in row order.

        Raises:
            DataError: If no video belongs to it.
        """
        chosen = tuple(video for video in self.videos if video.split == name)
        if not chosen:
            known = ", ".join(self.split_names()) or "none"
            raise DataError(
                f"the video index has no split {name!r}; it has: {known}. Name one of them in the "
                "experiment's data section, or import the videos again with that split"
            )
        return chosen

    def numbered(self, name: str) -> dict[int, VideoEntry]:
        """The videos of one split by their number; raises as `split`."""
        return dict(enumerate(self.split(name)))

    def split_names(self) -> tuple[str, ...]:
        return tuple(sorted({video.split for video in self.videos}))

    def digest(self, split: str) -> str:
        """Hash of what a split means: class names, and id, labels and length of its rows in order.

        It tells whether two trainings see the same. A cache is known by less (match.py of
        teacher_cache/format).
        """
        rows = [[video.id, list(video.labels), video.num_frames] for video in self.split(split)]
        return digest({"classes": list(self.classes), "rows": rows})

    def path_of(self, entry: VideoEntry) -> Path:
        return self.root / entry.path


def write_index(path: Path, index: VideoIndex) -> None:
    """Write an index, whole or not at all, with its rows in order.

    Raises:
        DataError: If two videos share an id, or a label lies outside the class list.
        OSError: As the system reports it.
    """
    videos = sorted(index.videos, key=lambda video: (video.split, video.id))
    rows = [_row(video) for video in videos]
    _check_videos(path, videos, index.classes)
    header = {
        "format": FORMAT,
        "classes": list(index.classes),
        # Relative, so that a folder holding both may be moved or mounted elsewhere.
        "root": Path(relpath(index.root.absolute(), path.absolute().parent)).as_posix(),
        "sha256": _seal(index.classes, rows),
    }
    atomic_write(path, (canonical_json(line) + b"\n" for line in [header, *rows]))


def _row(video: VideoEntry) -> dict[str, Any]:
    row = asdict(video) | {"labels": list(video.labels)}
    if video.content is None:
        del row["content"]
    return row


def read_index(path: str | os.PathLike[str]) -> VideoIndex:
    """Read a video index and check every row.

    Args:
        path: The .jsonl file that `reskd dataset import` wrote.

    Returns:
        The class names, K of them, and the videos in stable order: id, path, labels (numbers of
        classes, from 0), split, number of frames and frames per second; `split` gives those of one.

    Raises:
        DataError: If it is missing, not an index, wrong in some line, or edited.
    """
    path = Path(path)
    header, *rows = _read_lines(path)
    classes = _check_header(path, header)
    videos = [_entry(path, line, row) for line, row in enumerate(rows, start=2)]
    _check_videos(path, videos, classes)
    if _seal(classes, rows) != header["sha256"]:
        raise DataError(
            f"{path} was changed after it was written: its rows do not have the sha256 that its "
            "first line names. Import the videos again; rows cannot be edited by hand, because "
            "caches name the index by its content"
        )
    return VideoIndex(
        classes=classes,
        # By name, as write_index made it: the system would follow links before each "..".
        root=Path(normpath(path.absolute().parent / header["root"])),
        videos=tuple(sorted(videos, key=lambda video: (video.split, video.id))),
        quarantine={bad.id: bad.reason for bad in read_quarantine(quarantine_file(path))},
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise DataError(
            f"there is no video index {path}; make one with "
            f"`reskd dataset import folder DIR --out {path}`"
        ) from error
    except OSError as error:
        raise DataError(f"the video index {path} cannot be read: {error.strerror}") from error
    # Not splitlines(): that also splits at characters which JSON strings may hold.
    lines = text.removesuffix("\n").split("\n")
    return [_object(path, number, line) for number, line in enumerate(lines, start=1)]


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise _wrong(path, number, f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _wrong(path, number, f"is not a JSON object but {type(value).__name__}")
    return value


def _check_header(path: Path, header: Mapping[str, Any]) -> tuple[str, ...]:
    if header.get("format") != FORMAT:
        raise DataError(
            f"{path} is not a video index of this program: its first line has format "
            f"{header.get('format')!r} instead of {FORMAT!r}. Import the videos again"
        )
    classes = header.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _wrong(path, 1, "has no list of class names in field 'classes'")
    for key in ("root", "sha256"):
        if not isinstance(header.get(key), str):
            raise _wrong(path, 1, f"has no text in field {key!r}")
    return tuple(classes)


def _entry(path: Path, number: int, row: Mapping[str, Any]) -> VideoEntry:
    if difference := FIELD_TYPES.keys() ^ (row.keys() - {"content"}):
        names = ", ".join(sorted(difference))
        raise _wrong(path, number, f"has fields missing or unknown: {names}")
    for key, allowed in FIELD_TYPES.items():
        # JSON's true is an int to Python.
        if not isinstance(row[key], allowed) or isinstance(row[key], bool):
            raise _wrong(path, number, f"has {row[key]!r} in field {key!r}")
    labels = row["labels"]
    if not all(type(label) is int for label in labels):
        raise _wrong(path, number, f"has {labels!r} in field 'labels', not a list of numbers")
    content = _content(path, number, row["content"]) if "content" in row else None
    return VideoEntry(
        **{**row, "labels": tuple(labels), "fps": float(row["fps"]), "content": content}
    )


def _content(path: Path, number: int, facts: Any) -> ContentFacts:
    types = ContentFacts.__annotations__
    if not isinstance(facts, dict) or {key: type(facts[key]) for key in facts} != types:
        raise _wrong(path, number, f"has {facts!r} in field 'content'")
    return ContentFacts(**facts)


def _check_videos(path: Path, videos: Iterable[VideoEntry], classes: Sequence[str]) -> None:
    """What a row must be among the others: known labels, an id of its own."""
    seen: dict[str, VideoEntry] = {}
    for number, video in enumerate(videos, start=2):
        if not video.labels or not all(0 <= label < len(classes) for label in video.labels):
            raise _wrong(
                path,
                number,
                f"has labels {list(video.labels)} in field 'labels'; at least one is needed, each "
                f"in [0, {len(classes)})",
            )
        if video.num_frames < 0 or video.fps < 0:
            raise _wrong(path, number, "has a negative number in field 'num_frames' or 'fps'")
        if (earlier := seen.setdefault(video.id, video)) is video:
            continue
        if earlier.split == video.split:
            raise _wrong(path, number, f"repeats the id {video.id!r} in field 'id'")
        raise _wrong(
            path,
            number,
            f"puts video {video.id!r} into split {video.split!r}; it is already in "
            f"{earlier.split!r}",
        )


def _seal(classes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    return digest({"classes": list(classes), "videos": list(rows)})


def _wrong(path: Path, number: int, problem: str) -> DataError:
    return DataError(f"line {number} of {path} {problem}. Import the videos again")
