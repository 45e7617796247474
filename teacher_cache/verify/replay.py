"""Rows once more: group them by what must be decoded, cut their stored views, run the teacher."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from reskd.common.distill.differences import OutputPair
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.teacher_cache.fill.batches import (
    CLIPS_OF_ONE_VIDEO,
    across_videos,
    by_video,
    in_groups,
)
from reskd.teacher_cache.fill.compute import outputs_of
from reskd.teacher_cache.fill.cut import CutTask, CutVideo, cut_videos
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.format.commits import Computed, read_commit
from reskd.teacher_cache.read.reader import CacheReader

Address = tuple[int, int]
"""View and video of a row."""


@dataclass(frozen=True, slots=True)
class ClipGroup:
    """Videos whose clips of a view the teacher saw together, and rows of them to look at."""

    videos: tuple[int, ...]
    """In mode eval one, in mode batch a recorded group, in its order."""
    computed: Computed | None = None
    """How, as its unit's record has it; None shows each video by itself."""
    rows: dict[Address, list[str]] = field(default_factory=dict)
    """Rows with the names of the arrays that were written from this group."""

    @property
    def views(self) -> list[int]:
        """Views that some row needs, of every video."""
        return sorted({view for view, _ in self.rows})

    @property
    def batch_clips(self) -> int | None:
        """Clips the teacher saw at once; None shows each video by itself."""
        return None if self.computed is None else self.computed.batch_clips


class Repeated(NamedTuple):
    """A group of which all is known that can be known of it now."""

    group: ClipGroup
    cuts: dict[int, CutVideo]
    """Its videos."""
    outputs: dict[Address, TeacherOutput]
    """The teacher's, B = 1, for each of its rows that has a clip, and perhaps for others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """One cache and what it was made from."""

    job: Job
    reader: CacheReader
    teacher: Teacher | None
    """None if no array of the cache needs it."""

    def clip_groups(self, rows: Sequence[Address]) -> tuple[list[ClipGroup], list[Address]]:
        """Gather rows by the videos that must be decoded for them.

        Returns:
            The groups in order of their first video in `rows`, and the rows whose group is not
            recorded, which cannot be repeated.
        """
        manifest = self.reader.manifest
        found: dict[tuple[tuple[int, ...], int | None], ClipGroup] = {}
        lost: list[Address] = []
        commit_of = lru_cache(maxsize=64)(read_commit)
        for view, video in sorted(rows, key=lambda row: (row[1], row[0])):
            unit, _ = manifest.layout.locate(video)
            for generation in manifest.generations_of(unit):
                if view not in generation.view_range:
                    continue
                videos: tuple[int, ...] = (video,)
                commit = commit_of(self.reader.folder, generation.number, unit)
                if self.job.grouped:
                    groups = () if commit is None else commit.groups
                    # The first one: in the last group it may only have filled up the others.
                    videos = next((group for group in groups if video in group), ())
                if not videos:
                    lost.append((view, video))
                    continue
                computed = None if commit is None else commit.computed
                group = ClipGroup(videos, computed)
                group = found.setdefault((videos, group.batch_clips), group)
                group.rows.setdefault((view, video), []).extend(generation.arrays)
        return list(found.values()), lost

    def cut(self, groups: Sequence[ClipGroup]) -> Iterator[tuple[ClipGroup, dict[int, CutVideo]]]:
        """Decode the videos of each group once, ahead; yields the group and its videos."""
        tasks = (self._task(video, group.views) for group in groups for video in group.videos)
        views = max((len(group.views) for group in groups), default=1)
        cuts = cut_videos(self.job.source, tasks, views=views)
        for group in groups:
            own = islice(cuts, len(group.videos))
            yield group, dict(zip(group.videos, own, strict=True))

    def repeated(self, teacher: Teacher | None, groups: Sequence[ClipGroup]) -> Iterator[Repeated]:
        """Every group once more, in batches of the size on record: over the borders of groups."""
        cuts = self.cut(groups)
        for window in self._windows(groups):
            found = list(islice(cuts, len(window)))
            outputs = {} if teacher is None else self._outputs(teacher, found)
            yield from (Repeated(group, videos, outputs) for group, videos in found)

    def _windows(self, groups: Sequence[ClipGroup]) -> Iterator[list[ClipGroup]]:
        """Groups that are computed at once: a recorded one, or as many as fill a batch."""
        window: list[ClipGroup] = []
        for group in groups:
            clips = sum(len(one.views) for one in window)
            full = self.job.grouped or clips >= (group.batch_clips or 1)
            if window and (full or group.batch_clips != window[0].batch_clips):
                yield window
                window = []
            window.append(group)
        if window:
            yield window

    def _outputs(
        self, teacher: Teacher, found: Sequence[tuple[ClipGroup, dict[int, CutVideo]]]
    ) -> dict[Address, TeacherOutput]:
        videos = [cut for _, cuts in found for cut in cuts.values()]
        size = found[0][0].batch_clips
        if self.job.grouped:
            common = [
                view for view in found[0][0].views if all(view in cut.params for cut in videos)
            ]
            batches = in_groups(cut.only(common) for cut in videos)
        elif size is None:
            batches = by_video(videos)
        else:
            batches = across_videos(videos, size)
        return {(clip.view, clip.place): output for clip, output in outputs_of(teacher, batches)}

    def few_clips(self, groups: Sequence[ClipGroup]) -> Tensor:
        """Some clips to measure with, (B, T, 3, H, W); B is 0 where none can be had.

        In mode eval up to CLIPS_OF_ONE_VIDEO of different videos, in mode batch one group.
        """
        few = self.cut(groups[:CLIPS_OF_ONE_VIDEO])
        if self.job.grouped:
            for group, cuts in few:
                view = group.views[0]
                if all(view in cut.params for cut in cuts.values()):
                    return torch.stack([cut.clip(view) for cut in cuts.values()])
            return torch.empty(0)
        singles = [cut.clips_VT3HW[:1] for _, cuts in few for cut in cuts.values() if cut.params]
        return torch.cat(singles) if singles else torch.empty(0)

    def twice(self, teacher: Teacher, clips_BT3HW: Tensor) -> list[OutputPair]:
        """Two outputs for each of `few_clips`, computed in two ways that should give the same.

        In mode eval each clip alone and in a batch of CLIPS_OF_ONE_VIDEO; in mode batch the group
        in its order and in the opposite one.
        """
        count = len(clips_BT3HW)
        if not count:
            return []
        if self.job.grouped:
            one, other = teacher.predict(clips_BT3HW), teacher.predict(clips_BT3HW.flip(0))
            return [(one.single(place), other.single(count - 1 - place)) for place in range(count)]
        full = [place % count for place in range(CLIPS_OF_ONE_VIDEO)]
        together = teacher.predict(clips_BT3HW[full])
        return [
            (teacher.predict(clip), together.single(place))
            for place, clip in enumerate(clips_BT3HW.split(1))
        ]

    def _task(self, video: int, views: Sequence[int]) -> CutTask:
        stored = None
        # A video that a later run could not read has no rows; it filled up a group when it could.
        if video not in self.reader.failed:
            empty = self.reader.empty("views", len(views))
            stored = self.reader.gather("views", views, [video] * len(views), empty)
        return CutTask(
            video, self.job.entries[video], views, stored, drawn_as=self.job.id_of(video)
        )
