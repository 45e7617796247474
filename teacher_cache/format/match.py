"""Which videos of an index a cache holds: pure comparison of what both say about them.

A corrected label, a class or folder renamed, a video moved to another split or taken out cost no
teacher pass: rows are found by the content of their videos, labels are the index's.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from reskd.common.console import counted
from reskd.common.dataset.index import VideoEntry
from reskd.teacher_cache.format.class_columns import class_columns
from reskd.teacher_cache.format.videos import CachedVideo

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedVideos:
    """The videos of an index beside those of a cache."""

    entries: Mapping[int, VideoEntry]
    """By the number of its row: what the index says of a cached video now."""
    moved: Mapping[str, str]
    """Former id to the one it has in the index."""
    relabelled: tuple[str, ...]
    """Ids of videos that have other labels now, by the names of their classes."""
    gone: tuple[str, ...]
    """Ids of cached videos that the index does not list."""
    new: tuple[VideoEntry, ...]
    """Videos of the index without a row, but for those that could not be read when imported."""
    changed: tuple[str, ...]
    """Ids in both `gone` and `new`: the file has other content than the teacher saw."""
    by_id_alone: int
    """Videos known by their id and length alone, as one side has no facts of their content."""
    columns: tuple[int, ...] | None
    """For each class of the index its place among the cached class scores; None if the classes do
    not belong together one to one (see `class_columns`)."""
    renamed: Mapping[str, str]
    """Former name of a class to the one it has in the index."""

    def said(self) -> list[str]:
        """What has changed, a line each, for a person; of videos without a row see `lack`."""
        lines = [f"class {old} is called {new} now" for old, new in self.renamed.items()]
        if self.moved:
            old, new = next(iter(self.moved.items()))
            lines.append(
                f"{counted(len(self.moved), 'video')} found by content under another id, such as "
                f"{old}, now {new}"
            )
        if self.relabelled:
            count, first = len(self.relabelled), self.relabelled[0]
            lines.append(
                f"{counted(count, 'video')} with another label than when cached, such as {first}"
            )
        if self.gone:
            lines.append(
                f"{counted(len(self.gone), 'video')} of the cache not in the index, left out, such "
                f"as {self.gone[0]}"
            )
        if self.by_id_alone:
            lines.append(
                f"{counted(self.by_id_alone, 'video')} known by id and length alone: the cache or "
                "the index was made before the content of videos was noted"
            )
        return lines

    def lack(self, folder: Path) -> str:
        """That a cache has no row of some videos, and what to do; only where there are such."""
        text = f"{folder} "
        text += f"lacks {counted(len(self.new), 'video')} of the index, such as {self.new[0].id}"
        if self.changed:
            text += (
                f"; the files of {len(self.changed)} of them have other content than the teacher "
                f"saw, such as {self.changed[0]}"
            )
        return text + (
            f". `reskd cache extend {folder} --videos --experiment EXPERIMENT` runs the teacher on "
            "these alone."
        )


def match_videos(
    cached: Mapping[int, CachedVideo],
    entries: Sequence[VideoEntry],
    *,
    cached_classes: Sequence[str],
    classes: Sequence[str],
    frames: Mapping[str, str] | None = None,
) -> MatchedVideos:
    """Find the row of every video of an index.

    A video has the row of its id if content or, without facts of it, length are equal. A new id
    whose content is that of exactly one video whose id is gone is that video, moved; of several
    exact copies the one with the same file name, if that is one.

    Args:
        cached: The cache's videos by row.
        entries: Those of the index's split.
        cached_classes: Names of the classes that the labels of the cache are numbers of.
        classes: Likewise of the index.
        frames: Digests of the frames in a frame store by id, where the experiment has one.
    """
    row_of, by_id_alone = _same_id(cached, entries, frames or {})
    new = [entry for entry in entries if entry.id not in row_of]
    taken = set(row_of.values())
    missing = {row: video for row, video in cached.items() if row not in taken}
    moved = _moved(missing, new, frames or {})
    row_of |= moved
    by_row = {row_of[entry.id]: entry for entry in entries if entry.id in row_of}
    gone = tuple(missing[row].id for row in missing if row not in moved.values())
    still_new = tuple(entry for entry in new if entry.id not in moved and entry.num_frames)
    labels = [
        (video.labels, by_row[row].labels if row in by_row else ()) for row, video in cached.items()
    ]
    labels += [((), entry.labels) for entry in still_new]
    columns = class_columns(cached_classes, classes, labels)
    renamed = {
        cached_classes[column]: classes[number]
        for number, column in enumerate(columns or ())
        if cached_classes[column] != classes[number]
    }
    names = [renamed.get(name, name) for name in cached_classes]
    return MatchedVideos(
        entries=by_row,
        moved={cached[row].id: id_ for id_, row in moved.items()},
        relabelled=tuple(
            entry.id
            for row, entry in sorted(by_row.items())
            if cached[row].labels
            and {names[label] for label in cached[row].labels}
            != {classes[label] for label in entry.labels}
        ),
        gone=gone,
        new=still_new,
        changed=tuple(sorted({entry.id for entry in still_new} & set(gone))),
        by_id_alone=by_id_alone,
        columns=columns,
        renamed=renamed,
    )


def _same_id(
    cached: Mapping[int, CachedVideo], entries: Iterable[VideoEntry], frames: Mapping[str, str]
) -> tuple[dict[str, int], int]:
    """Rows by id of videos that still have theirs, and how many are known by no more than that."""
    rows = defaultdict(list)
    for row, video in cached.items():
        rows[video.id].append(row)
    found: dict[str, int] = {}
    by_id_alone = 0
    for entry in entries:
        # The later row first: a file that was replaced was cached again.
        for row in reversed(rows.get(entry.id, [])):
            left, right = _comparable(cached[row], entry, frames.get(entry.id))
            if left == right:
                found[entry.id] = row
                by_id_alone += len(left) == 1
                break
    return found, by_id_alone


def _comparable(
    video: CachedVideo, entry: VideoEntry, frames: str | None
) -> tuple[tuple[Hashable, ...], tuple[Hashable, ...]]:
    """The strongest facts that both sides have."""
    if video.frames is not None and frames is not None:
        return (video.frames, None), (frames, None)
    if video.content is None or entry.content is None:
        return (video.num_frames,), (entry.num_frames,)
    return (
        (video.content, video.num_frames, video.fps),
        (entry.content, entry.num_frames, entry.fps),
    )


def _moved(
    missing: Mapping[int, CachedVideo], new: Iterable[VideoEntry], frames: Mapping[str, str]
) -> dict[str, int]:
    """Rows by new id."""
    rows: defaultdict[Hashable, list[int]] = defaultdict(list)
    ids: defaultdict[Hashable, list[str]] = defaultdict(list)
    for row, video in missing.items():
        if (key := _content(video, video.frames if frames else None)) is not None:
            rows[key].append(row)
    for entry in new:
        if (key := _content(entry, frames.get(entry.id))) is not None:
            ids[key].append(entry.id)
    found: dict[str, int] = {}
    for key, own in ids.items():
        found |= _paired({row: missing[row].id for row in rows.get(key, [])}, own)
    return found


def _content(video: CachedVideo | VideoEntry, frames: str | None) -> Hashable:
    if frames is not None:
        return frames
    return None if video.content is None else (video.content, video.num_frames, video.fps)


def _paired(id_of_row: Mapping[int, str], ids: Sequence[str]) -> dict[str, int]:
    """Rows and new ids of equal content: one each, or by the names of their files."""
    if len(id_of_row) == len(ids) == 1:
        return {ids[0]: next(iter(id_of_row))}
    rows_of_name = _by_name(id_of_row.items())
    ids_of_name = _by_name((id_, id_) for id_ in ids)
    return {
        ids_of_name[name][0]: rows[0]
        for name, rows in rows_of_name.items()
        if len(rows) == len(ids_of_name.get(name, ())) == 1
    }


def _by_name(named: Iterable[tuple[Item, str]]) -> dict[str, list[Item]]:
    found: defaultdict[str, list[Item]] = defaultdict(list)
    for item, id_ in named:
        found[PurePosixPath(id_).name].append(item)
    return found
