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

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from itertools import chain, pairwise
from operator import attrgetter
from os.path import normpath, relpath
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import ConfigDict, ValidationError

from reskd.common.dataset.content import ContentFacts
from reskd.common.dataset.fields import ROW, Count, Labels, Name, Rate, Text
from reskd.common.dataset.quarantine import quarantine_file, read_quarantine
from reskd.common.errors import DataError
from reskd.common.parsing.json_text import bounded_lines, parse_json
from reskd.common.parsing.problems import first_problem, problem_text
from reskd.common.parsing.rows import RowReader, collector_paused
from reskd.common.parsing.shown import shortened, shown
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.kinds import open_file
from reskd.common.storage.records import canonical_json, digest
from reskd.common.storage.system_errors import input_problem

FORMAT = "reskd-index/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoEntry:
    """One video."""

    __pydantic_config__: ClassVar[ConfigDict] = ROW

    id: Text
    """Name in every record, and key of every random draw about this video."""
    path: Text
    """File, relative to the index's root, with forward slashes."""
    labels: Labels
    """Positions in the class list; at least one."""
    split: Name
    """Name of the split it belongs to."""
    num_frames: Count
    """Frames that can be asked for; 0 marks a video that could not be read when imported."""
    fps: Rate
    """Frames per second, averaged; 0.0 where the file does not say."""
    content: ContentFacts | None = None
    """Tells it from other videos whatever it is called; None in indexes written before there were
    such facts, and of a video that could not be read."""


_READ_ENTRY: Final = RowReader(VideoEntry)
_FIELDS: Final = {item.name for item in fields(VideoEntry)} - {"content"}


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
    reader: str | None = None
    """Code of the user's that found the videos and opens them (own_reader.py); None: files."""

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
    videos = _in_order(path, index.videos)
    _check_videos(path, videos, index.classes)
    lines = [canonical_json(_row(video)) for video in videos]
    seal = _Seal(index.classes)
    for line in lines:
        seal.add(line)
    header = {
        "format": FORMAT,
        "classes": list(index.classes),
        # Relative, so that a folder holding both may be moved or mounted elsewhere.
        "root": Path(relpath(index.root.absolute(), path.absolute().parent)).as_posix(),
        "sha256": seal.hexdigest(),
        **({} if index.reader is None else {"reader": index.reader}),
    }
    atomic_write(path, (line + b"\n" for line in chain([canonical_json(header)], lines)))


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
    try:
        with open_file(path) as file, collector_paused():
            return _read(path, bounded_lines(file))
    except FileNotFoundError as error:
        raise DataError(
            f"there is no video index {path}; make one with "
            f"`reskd dataset import folder DIR --out {path}`"
        ) from error
    except OSError as error:
        raise DataError(f"the video index {path} cannot be read: {input_problem(error)}") from error
    except ValueError as error:
        raise DataError(f"{path} is no video index: {error}. Import the videos again") from error


def _read(path: Path, lines: Iterator[tuple[int, bytes]]) -> VideoIndex:
    header = _header(path, next(lines, (1, b""))[1])
    seal = _Seal(header["classes"])
    videos = []
    for number, line in lines:
        videos.append(_entry(path, number, line))
        seal.add(line)
    _check_videos(path, videos, header["classes"])
    ordered = _in_order(path, videos)
    # Lines are compared as they stand: this program writes a value in one way only.
    if seal.hexdigest() != header["sha256"]:
        raise DataError(
            f"{path} was changed after it was written: its rows do not have the sha256 that its "
            "first line names. Import the videos again; rows cannot be edited by hand, because "
            "caches name the index by its content"
        )
    return VideoIndex(
        classes=tuple(header["classes"]),
        # By name, as write_index made it: the system would follow links before each "..".
        root=Path(normpath(path.absolute().parent / header["root"])),
        videos=tuple(ordered),
        quarantine={bad.id: bad.reason for bad in read_quarantine(quarantine_file(path))},
        reader=header.get("reader"),
    )


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise _wrong(path, number, f"is not JSON ({problem_text(error)})") from error
    if not isinstance(value, dict):
        raise _wrong(path, number, f"is not a JSON object but {type(value).__name__}")
    return value


def _header(path: Path, line: bytes) -> dict[str, Any]:
    header = _object(path, 1, line)
    if header.get("format") != FORMAT:
        raise DataError(
            f"{path} is not a video index of this program: its first line has format "
            f"{shown(header.get('format'))} instead of {FORMAT!r}. Import the videos again"
        )
    classes = header.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise _wrong(path, 1, "has no list of class names in field 'classes'")
    for key in ("root", "sha256", *(["reader"] if "reader" in header else [])):
        if not isinstance(header.get(key), str) or "\0" in header[key]:
            raise _wrong(path, 1, f"has no text in field {key!r}")
    return header


def _entry(path: Path, number: int, line: bytes) -> VideoEntry:
    try:
        video = _READ_ENTRY(line)
    except ValidationError as error:
        row = _object(path, number, line)
        if difference := _FIELDS ^ (row.keys() - {"content"}):
            names = shortened(", ".join(sorted(difference)), 200)
            raise _wrong(path, number, f"has fields missing or unknown: {names}") from error
        field = first_problem(error)["loc"][0]
        raise _wrong(path, number, f"has {shown(row[field])} in field {field!r}") from error
    except ValueError as error:
        raise _wrong(path, number, f"is not JSON ({problem_text(error)})") from error
    if b"\\u0000" in line and "\0" in f"{video.id}{video.path}":
        raise _wrong(path, number, "has a NUL in field 'id' or 'path', which no name of a file has")
    return video


def _check_videos(path: Path, videos: Iterable[VideoEntry], classes: Sequence[str]) -> None:
    for number, video in enumerate(videos, start=2):
        labels = video.labels
        if not labels or min(labels) < 0 or max(labels) >= len(classes):
            raise _wrong(
                path,
                number,
                f"has labels {shown(list(labels))} in field 'labels'; at least one is needed, each "
                f"in [0, {len(classes)})",
            )
        if video.num_frames < 0 or video.fps < 0:
            raise _wrong(path, number, "has a negative number in field 'num_frames' or 'fps'")


def _in_order(path: Path, videos: Sequence[VideoEntry]) -> list[VideoEntry]:
    """Videos by split and id, each id once."""
    ordered = sorted(videos, key=attrgetter("id"))
    for earlier, later in pairwise(ordered):
        if earlier.id != later.id:
            continue
        number = next(place for place, one in enumerate(videos, start=2) if one is later)
        if earlier.split == later.split:
            raise _wrong(path, number, f"repeats the id {shown(later.id)} in field 'id'")
        raise _wrong(
            path,
            number,
            f"puts video {shown(later.id)} into split {shown(later.split)}; it is already in "
            f"{shown(earlier.split)}",
        )
    ordered.sort(key=attrgetter("split"))
    return ordered


class _Seal:
    """The sha256 of an index: of its classes and rows as one canonical JSON value, row by row."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._hash = sha256(b'{"classes":' + canonical_json(list(classes)) + b',"videos":[')
        self._between = b""

    def add(self, line: bytes) -> None:
        """The next row, in canonical form."""
        self._hash.update(self._between + line)
        self._between = b","

    def hexdigest(self) -> str:
        """Of what was added; no more can be."""
        self._hash.update(b"]}")
        return self._hash.hexdigest()


def _wrong(path: Path, number: int, problem: str) -> DataError:
    return DataError(f"line {number} of {path} {problem}. Import the videos again")
