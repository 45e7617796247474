"""What an import found, which of it stops the import, and how both are reported."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reskd.common.console import aligned, in_lines
from reskd.common.dataset.importing.annotations import Ignored
from reskd.common.dataset.importing.labels import Labelled
from reskd.common.dataset.importing.repeats import PlacedVideo
from reskd.common.dataset.index import VideoIndex

LISTED = 10
"""Longest list of names in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """What the user allows."""

    missing: int = 0
    """Most videos that may be missing or unreadable."""
    repetitions: bool = False
    """Whether a video named twice with the same labels counts once."""
    copies: bool = False
    """Whether different files of equal bytes may be in two splits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """Counts and findings of one import; texts name videos and lines."""

    expected: dict[str, int]
    """Rows by split."""
    found: dict[str, int]
    """Videos by split whose files are there."""
    num_classes: int
    label_range: tuple[int, int]
    """Smallest and largest label that occurs."""
    empty_classes: dict[str, list[str]]
    """Classes without a video, by split."""
    missing: tuple[str, ...]
    quarantined: tuple[str, ...]
    same: tuple[str, ...]
    """Videos named twice with the same labels."""
    contradicting: tuple[str, ...]
    overlapping: tuple[str, ...]
    parts: tuple[str, ...]
    """Rows that are a part of a folder."""
    ignored: tuple[Ignored, ...]
    copies: tuple[tuple[PlacedVideo, PlacedVideo], ...] = ()
    """Files of equal bytes in two splits; known once their bytes are compared."""
    unreadable: tuple[str, ...] = ()
    """Known once the videos are opened, as are the next."""
    other_lengths: tuple[str, ...] = ()
    """Videos with another number of frames, folders with another number of images than listed."""

    def refusals(self, allowed: Allowed) -> list[str]:
        """What stops the import, each with its remedy; empty if nothing does."""
        return list(_refusals(self, allowed))

    def lines(self) -> Iterator[str]:
        """The report as text, without the table of classes."""
        for split, expected in self.expected.items():
            yield f"{split}: {self.found[split]} of {expected} annotated videos found"
        low, high = self.label_range
        yield f"labels {low} to {high} of {self.num_classes} classes"
        for split, empty in self.empty_classes.items():
            if empty:
                yield f"{split}: {len(empty)} classes have no video: {names(empty)}"
        for title, found in self._findings().items():
            if found:
                yield in_lines(f"{len(found)} {title}:", listing(found))
        for reason, count in Counter(row.reason for row in self.ignored).most_common():
            first = next(row.where for row in self.ignored if row.reason == reason)
            yield f"{count} rows left out: {reason} (such as {first})"

    def record(self) -> dict[str, Any]:
        """The report for JSON."""
        reasons = Counter(row.reason for row in self.ignored)
        return {
            "expected": self.expected,
            "found": self.found,
            "num_classes": self.num_classes,
            "label_range": list(self.label_range),
            "empty_classes": self.empty_classes,
            "missing": list(self.missing),
            "unreadable": list(self.unreadable),
            "quarantined": list(self.quarantined),
            "duplicates": list(self.same),
            "contradicting": list(self.contradicting),
            "in_two_splits": list(self.overlapping),
            "copies_in_two_splits": _copies(self),
            "other_lengths": list(self.other_lengths),
            "parts_of_folders": list(self.parts),
            "ignored": dict(reasons),
        }

    def _findings(self) -> dict[str, Sequence[str]]:
        return {
            "missing": self.missing,
            "unreadable": self.unreadable,
            "in quarantine, not opened": self.quarantined,
            "named twice, counted once": self.same,
            "copies of a video of another split": _copies(self),
            "videos with another number of frames than listed (see --layout)": self.other_lengths,
        }


def empty_classes(labelled: Labelled) -> dict[str, list[str]]:
    """Classes without a video, by split."""
    used: dict[str, set[int]] = {row.split: set() for row, _ in labelled.rows}
    for row, labels in labelled.rows:
        used[row.split].update(labels)
    return {
        split: [name for label, name in enumerate(labelled.classes) if label not in labels]
        for split, labels in sorted(used.items())
    }


def folder_refusal(report: ImportReport, directory: Path, *, allow_unreadable: bool) -> str | None:
    """What stops the import of a folder of class folders, with its remedy; None if nothing does.

    Args:
        report: As far as it is known.
        directory: The folder.
        allow_unreadable: Whether videos that cannot be read may stay, as failed ones.
    """
    if report.copies:
        # Names say nothing here: many folders number the videos of each split from 1.
        one, other = report.copies[0]
        return (
            f"the same video is in two splits (`{one.row.split}` and `{other.row.split}`): "
            f"{one.id} and {other.id} have the same bytes. The measured accuracy would be "
            "that of videos seen in training; remove one of the two"
        )
    lost = [*report.missing, *report.unreadable]
    if lost and not allow_unreadable:
        return in_lines(
            f"{len(lost)} of {sum(report.expected.values())} videos in {directory} cannot be read:",
            listing(lost),
            "Fix or remove them; or give --allow-unreadable, which keeps them in the index as "
            "failed videos, so that they are counted and never silently dropped",
        )
    return None


def summary(path: Path, index: VideoIndex) -> dict[str, Any]:
    """An index as an object for JSON."""
    splits = {
        split: {
            "videos": len(index.split(split)),
            "frames": sum(video.num_frames for video in index.split(split)),
            "classes": classes,
        }
        for split, classes in _counts(index).items()
    }
    return {
        "index": str(path.absolute()),
        "root": str(index.root),
        "classes": list(index.classes),
        "splits": splits,
        "unreadable": [str(index.path_of(video)) for video in index.videos if not video.num_frames],
    }


def text_of(path: Path, index: VideoIndex, notes: Iterable[str]) -> str:
    """An index and the notes on its import, as text."""
    count = f"{path}: {len(index.videos)} videos of {len(index.classes)} classes"
    return in_lines(count, table(index), *notes)


def table(index: VideoIndex) -> str:
    """An index as text: a line per class."""
    counts = _counts(index)
    unreadable = sum(video.num_frames == 0 for video in index.videos)
    totals = [str(len(index.split(split))) for split in counts]
    rows = [["class", *counts]]
    rows += [[name, *(str(classes[name]) for classes in counts.values())] for name in index.classes]
    rows += [["all videos", *totals]]
    lines = aligned(rows)
    if unreadable:
        lines.append(f"{unreadable} of them could not be read and will count as failed")
    return in_lines(*lines)


def names(items: Iterable[str]) -> str:
    """Names in one line."""
    return ", ".join(_shortened(items))


def listing(lines: Iterable[str]) -> str:
    """One name a line, indented."""
    return in_lines(*(f"  {line}" for line in _shortened(lines)))


def _refusals(report: ImportReport, allowed: Allowed) -> Iterator[str]:
    lost = len(report.missing) + len(report.unreadable)
    if lost > allowed.missing:
        if not any(report.found.values()):
            yield "no video was found: is --videos the folder that the paths start from?"
        yield in_lines(
            f"{len(report.missing)} videos are missing and {len(report.unreadable)} unreadable, "
            f"{allowed.missing} allowed:",
            listing([*report.missing, *report.unreadable]),
            f"Add or fix them; or give --allow-missing {lost}, which keeps them in the index "
            "as failed videos, so that they are counted and never silently dropped",
        )
    # Parts of one video are not the same video twice.
    if report.contradicting and not report.parts:
        yield in_lines(
            f"{len(report.contradicting)} videos are named twice with different labels:",
            listing(report.contradicting),
            "One of the two lines is wrong: correct the list",
        )
    if report.overlapping:
        yield in_lines(
            f"{len(report.overlapping)} videos are in two splits:",
            listing(report.overlapping),
            "The measured accuracy would be that of videos seen in training: take them out of "
            "one list. Files of the same name in a folder per split need --videos SPLIT=DIR",
        )
    if report.same and not report.parts and not allowed.repetitions:
        yield in_lines(
            f"{len(report.same)} videos are named twice with the same labels:",
            listing(report.same),
            "Each would count twice: remove the lines, or give --merge-duplicates to count it once",
        )
    if report.copies and not allowed.copies:
        yield in_lines(
            f"{len(report.copies)} videos of one split have the same bytes as one of another:",
            listing(_copies(report)),
            "The measured accuracy would be that of videos seen in training: take them out of one "
            "list, or give --allow-copies where the data set is published so",
        )
    if report.parts:
        yield in_lines(
            f"{len(report.parts)} rows are a part of a video or of a folder of images, which an "
            "index cannot say:",
            listing(report.parts),
            "Give each a file of its own (ffmpeg -i VIDEO -ss START -to END PART.mp4) or its own "
            "folder (links to its images do); or, if whole videos are meant, give --ignore-columns "
            "start",
        )


def _copies(report: ImportReport) -> list[str]:
    return [
        f"{one.id} (`{one.row.split}`) and {other.id} (`{other.row.split}`)"
        for one, other in report.copies
    ]


def _shortened(items: Iterable[str]) -> list[str]:
    items = list(items)
    rest = len(items) - LISTED
    return items[:LISTED] + ([f"and {rest} more"] if rest > 0 else [])


def _counts(index: VideoIndex) -> dict[str, dict[str, int]]:
    """Videos by split and class; a video of several classes counts in each."""
    counts = {split: dict.fromkeys(index.classes, 0) for split in index.split_names()}
    for video in index.videos:
        for label in video.labels:
            counts[video.split][index.classes[label]] += 1
    return counts
