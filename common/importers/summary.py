"""An index in numbers: videos by split and class."""

from pathlib import Path
from typing import Any

from common.video.index import VideoIndex


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


def table(index: VideoIndex) -> str:
    """An index as text: a line per class."""
    counts = _counts(index)
    unreadable = sum(video.num_frames == 0 for video in index.videos)
    totals = [str(len(index.split(split))) for split in counts]
    rows = [["class", *counts]]
    rows += [[name, *(str(classes[name]) for classes in counts.values())] for name in index.classes]
    rows += [["all videos", *totals]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    if unreadable:
        lines.append(f"{unreadable} of them could not be read and will count as failed")
    return "\n".join(lines)


def _counts(index: VideoIndex) -> dict[str, dict[str, int]]:
    """Videos by split and class; a video of several classes counts in each."""
    counts = {split: dict.fromkeys(index.classes, 0) for split in index.split_names()}
    for video in index.videos:
        for label in video.labels:
            counts[video.split][index.classes[label]] += 1
    return counts
