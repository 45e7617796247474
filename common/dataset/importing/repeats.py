"""The same video twice: named again, in one split or in two, or copied from one into another."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from itertools import combinations
from pathlib import Path

from reskd.common.dataset.importing.annotations import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedVideo:
    """An annotated video and where it lies."""

    row: Row
    id: str
    labels: tuple[int, ...]
    path: Path
    """The file, or where it should be."""
    problem: str | None
    """Why it cannot be opened; None if it is there."""

    @property
    def name(self) -> str:
        """Its id and, where a list names it, the line."""
        return f"{self.id} ({self.row.where})" if self.row.where else self.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """Videos named more than once, as texts that name the lines."""

    same: tuple[str, ...]
    """Again in its split with the same labels."""
    contradicting: tuple[str, ...]
    """Again in its split with other labels."""
    overlapping: tuple[str, ...]
    """In two splits."""
    kept: tuple[PlacedVideo, ...]
    """The videos without the repetitions, in their order."""


def find_repeats(videos: Sequence[PlacedVideo]) -> Repeats:
    """Compare all videos by their files and by their ids."""
    same: list[str] = []
    contradicting: list[str] = []
    overlapping: list[str] = []
    kept: list[PlacedVideo] = []
    earlier_by: defaultdict[str, list[PlacedVideo]] = defaultdict(list)
    for video in videos:
        # Two ids may name one file: clips of one YouTube video in files without their times.
        keys = {f"id {video.id}"} | ({f"file {video.path}"} if video.problem is None else set())
        earlier = next((earlier_by[key][0] for key in sorted(keys) if earlier_by[key]), None)
        for key in keys:
            earlier_by[key].append(video)
        if earlier is None:
            kept.append(video)
            continue
        text = f"{video.id}: {video.row.where} and {earlier.row.where}"
        if earlier.row.split != video.row.split:
            overlapping.append(f"{text} (`{video.row.split}` and `{earlier.row.split}`)")
        elif set(earlier.labels) != set(video.labels):
            contradicting.append(f"{text} ({list(video.labels)} and {list(earlier.labels)})")
        else:
            same.append(text)
    return Repeats(
        same=tuple(same),
        contradicting=tuple(contradicting),
        overlapping=tuple(overlapping),
        kept=tuple(kept),
    )


def copies_across(split_of: Mapping[Path, str]) -> Iterator[tuple[Path, Path]]:
    """Pairs of files in different splits with the same bytes.

    Only files of equal size are read. Folders are passed over: their size says nothing.

    Args:
        split_of: Existing files, and the split of each.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path in split_of:
        by_size[path.stat().st_size].append(path)
    for size, sized in by_size.items():
        # Empty files are equal too, but a broken video is what they will be reported as.
        if size == 0 or len({split_of[path] for path in sized}) == 1:
            continue
        files = [path for path in sized if path.is_file()]
        hashes = {path: _hash(path) for path in files}
        for one, other in combinations(files, 2):
            if split_of[one] != split_of[other] and hashes[one] == hashes[other]:
                yield one, other


def _hash(file: Path) -> bytes:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").digest()
