"""Rows once more: group them by what must be decoded, cut their stored views, run the teacher."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

import torch
from torch import Tensor

from reskd.common.distill.differences import OutputPair
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.teacher_cache.fill.compute import CLIPS_PER_FORWARD, teacher_outputs
from reskd.teacher_cache.fill.cut import CutTask, CutVideo, cut_videos
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.format.commits import read_commit
from reskd.teacher_cache.read.reader import CacheReader

Address = tuple[int, int]
"""View and video of a row."""


@dataclass(frozen=True, slots=True)
class ClipGroup:
    """Videos whose clips of a view the teacher saw together, and rows of them to look at."""

    videos: tuple[int, ...]
    """In mode eval one, in mode batch a recorded group, in its order."""
    rows: dict[Address, list[str]] = field(default_factory=dict)
    """Rows with the names of the arrays that were written from this group."""

    @property
    def views(self) -> list[int]:
        """Views that some row needs, of every video."""
        return sorted({view for view, _ in self.rows})


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
        found: dict[tuple[int, ...], ClipGroup] = {}
        lost: list[Address] = []
        commit_of = lru_cache(maxsize=64)(read_commit)
        for view, video in sorted(rows, key=lambda row: (row[1], row[0])):
            unit, _ = manifest.layout.locate(video)
            for generation in manifest.generations:
                if view not in generation.view_range:
                    continue
                videos: tuple[int, ...] = (video,)
                if self.job.grouped:
                    commit = commit_of(self.reader.folder, generation.number, unit)
                    groups = () if commit is None else commit.groups
                    # The first one: in the last group it may only have filled up the others.
                    videos = next((group for group in groups if video in group), ())
                if not videos:
                    lost.append((view, video))
                    continue
                group = found.setdefault(videos, ClipGroup(videos))
                group.rows.setdefault((view, video), []).extend(generation.arrays)
        return list(found.values()), lost

    def cut(self, groups: Sequence[ClipGroup]) -> Iterator[tuple[ClipGroup, dict[int, CutVideo]]]:
        """Decode the videos of each group once, ahead; yields the group and its videos."""
        tasks = (self._task(video, group.views) for group in groups for video in group.videos)
        cuts = cut_videos(self.job.source, tasks)
        for group in groups:
            own = islice(cuts, len(group.videos))
            yield group, dict(zip(group.videos, own, strict=True))

    def outputs(
        self, teacher: Teacher, group: ClipGroup, cuts: dict[int, CutVideo]
    ) -> dict[Address, TeacherOutput]:
        """The teacher's output for each row now, B = 1; without rows that lack a clip."""
        own = [cuts[video] for video in group.videos]
        views = [view for view in group.views if all(view in cut.params for cut in own)]
        if not views:
            return {}
        clips = [torch.stack([cut.clip(view) for view in views]) for cut in own]
        by_video = teacher_outputs(teacher, clips, FillMeters())
        return {
            (view, video): output.single(place)
            for video, output in zip(group.videos, by_video, strict=True)
            for place, view in enumerate(views)
        }

    def few_clips(self, groups: Sequence[ClipGroup]) -> Tensor:
        """Some clips to measure with, (B, T, 3, H, W); B is 0 where none can be had.

        In mode eval up to CLIPS_PER_FORWARD of different videos, in mode batch one group.
        """
        few = self.cut(groups[:CLIPS_PER_FORWARD])
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

        In mode eval each clip alone and in a batch of CLIPS_PER_FORWARD; in mode batch the group in
        its order and in the opposite one.
        """
        count = len(clips_BT3HW)
        if not count:
            return []
        if self.job.grouped:
            one, other = teacher.predict(clips_BT3HW), teacher.predict(clips_BT3HW.flip(0))
            return [(one.single(place), other.single(count - 1 - place)) for place in range(count)]
        full = [place % count for place in range(CLIPS_PER_FORWARD)]
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
        return CutTask(video, self.job.entries[video], views, stored, self.job.id_of(video))
