"""Which videos a cache holds, row by row: one file per run that brought some.

    {"content": {…}, "fps": 25.0, "frames": null, "id": "run/a.mp4", "labels": [1], …}

A video's number is its line in the first file, or in a later one its line plus the number that this
file begins at (cache.json says it, with the file's sha256). What a data set calls the video later
on, and what it says it shows, is none of the cache's business: match.py finds it by its content.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final

from pydantic import ConfigDict

from reskd.common.dataset.content import ContentFacts
from reskd.common.dataset.fields import ROW, Count, Labels, Rate, Text
from reskd.common.dataset.index import VideoEntry
from reskd.common.errors import CacheError
from reskd.common.parsing.json_text import bounded_lines
from reskd.common.parsing.problems import problem_text
from reskd.common.parsing.rows import RowReader, collector_paused
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.kinds import open_file
from reskd.common.storage.records import canonical_json, content_sha256, digest
from reskd.common.storage.system_errors import input_problem


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedVideo:
    """One video as it was when the teacher saw it."""

    __pydantic_config__: ClassVar[ConfigDict] = ROW

    id: Text
    """Key of every random draw about it, for good: its views were drawn by this name."""
    num_frames: Count
    fps: Rate
    content: ContentFacts | None
    """None where its index had no such facts; then it is known by its id alone."""
    frames: Text | None = None
    """Digest of its frames, where they came from a frame store."""
    labels: Labels = ()
    """Classes it was filed under then, numbers of `Manifest.classes`: to tell what has changed.
    None if these did not have its class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoTable:
    """One file of videos."""

    rows: tuple[int, int]
    """Number of its first video, and one past the last."""
    sha256: str
    """Hexadecimal digest of the file."""
    content: str
    """Hexadecimal digest of what decides the teacher's outputs: all but labels."""


_READ_VIDEO: Final = RowReader(CachedVideo)


def videos_key(number: int) -> str:
    """Path of a table inside the cache; tables count from 1."""
    return f"videos.{number}.jsonl"


def cached_video(entry: VideoEntry, frames: str | None = None) -> CachedVideo:
    """A video of an index as a cache keeps it."""
    return CachedVideo(
        id=entry.id,
        num_frames=entry.num_frames,
        fps=entry.fps,
        content=entry.content,
        frames=frames,
        labels=entry.labels,
    )


def write_videos(
    folder: Path, number: int, first_row: int, videos: Sequence[CachedVideo]
) -> VideoTable:
    """Write a table, whole; the entry of cache.json that names it."""
    content = b"".join(canonical_json(asdict(video)) + b"\n" for video in videos)
    atomic_write(folder / videos_key(number), content)
    return VideoTable(
        rows=(first_row, first_row + len(videos)),
        sha256=sha256(content).hexdigest(),
        content=videos_digest(videos),
    )


def videos_digest(videos: Iterable[CachedVideo]) -> str:
    """Hexadecimal sha256 of what decides the teacher's outputs for some videos, in order."""
    rows = [asdict(video) for video in videos]
    for row in rows:
        del row["labels"]
    return digest(rows)


def read_videos(folder: Path, tables: Sequence[VideoTable]) -> Mapping[int, CachedVideo]:
    """All videos by their number.

    Raises:
        CacheError: If a table is missing or damaged.
    """
    found: dict[int, CachedVideo] = {}
    for number, table in enumerate(tables, start=1):
        path = folder / videos_key(number)
        try:
            with open_file(path) as file, collector_paused():
                _check_digest(path, table, content_sha256(file))
                file.seek(0)
                videos = (_READ_VIDEO(line) for _, line in bounded_lines(file))
                found.update(zip(range(*table.rows), videos, strict=True))
        except OSError as error:
            raise CacheError(
                f"{path}, which says what the rows of this cache are of, cannot be read: "
                f"{input_problem(error)}. Restore it from a copy, or write the cache again."
            ) from error
        except ValueError as error:
            raise CacheError(f"{path} is no table of videos: {problem_text(error)}") from error
    return found


def _check_digest(path: Path, table: VideoTable, got: str) -> None:
    if got != table.sha256:
        raise CacheError(
            f"{path} was changed after it was written: it has sha256 {got[:12]}…, cache.json "
            f"says {table.sha256[:12]}…. Restore it from a copy, or write the cache again."
        )
