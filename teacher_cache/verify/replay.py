"""Rows once more: decode their videos, cut their stored views, ask the teacher what it says now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.experiment import Experiment
from reskd.common.prefetch import ordered_map
from reskd.common.video.clips import cut_clips
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.views import ViewParams, draw_view
from reskd.teacher_cache.fill.compute import CLIPS_PER_FORWARD
from reskd.teacher_cache.format.commits import read_commit
from reskd.teacher_cache.read.reader import CacheReader

Address = tuple[int, int]
"""View and video of a row."""


@dataclass(frozen=True, slots=True)
class Company:
    """Videos whose clips of a view the teacher saw together, and rows of them to look at."""

    videos: tuple[int, ...]
    """In mode eval one, in mode batch a recorded group, in its order."""
    rows: dict[Address, list[str]] = field(default_factory=dict)
    """Rows with the names of the arrays that were written in this company."""

    @property
    def views(self) -> list[int]:
        """Views that some row needs, of every video."""
        return sorted({view for view, _ in self.rows})


@dataclass(frozen=True, slots=True)
class CutVideo:
    """Some views of one video, by number."""

    drawn: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    """Parameters as the seed gives them, (T + 8,)."""
    clips: dict[int, Tensor] = field(default_factory=dict)
    """The stored views as the teacher sees them, (T, 3, H, W) uint8."""
    problems: dict[int, str] = field(default_factory=dict)
    """Why there is no clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """One cache and what it was made from."""

    experiment: Experiment
    index: VideoIndex
    entries: tuple[VideoEntry, ...]
    """Videos of the cached split."""
    reader: CacheReader
    teacher: Teacher | None
    """None if no array of the cache needs it."""
    threads: int
    """Videos decoded ahead."""

    @property
    def grouped(self) -> bool:
        """Whether a row depends on the clips beside it."""
        return self.experiment.teacher.mode == "batch"

    def companies(self, rows: Sequence[Address]) -> tuple[list[Company], list[Address]]:
        """Gather rows by the videos that must be decoded for them.

        Returns:
            The companies in order of their first video in `rows`, and the rows whose group is not
            recorded, which cannot be repeated.
        """
        manifest = self.reader.manifest
        found: dict[tuple[int, ...], Company] = {}
        lost: list[Address] = []
        commit_of = lru_cache(maxsize=64)(read_commit)
        for view, video in sorted(rows, key=lambda row: (row[1], row[0])):
            unit, _ = manifest.layout.locate(video)
            for generation in manifest.generations:
                if view not in generation.view_range:
                    continue
                videos: tuple[int, ...] = (video,)
                if self.grouped:
                    commit = commit_of(self.reader.folder, generation.number, unit)
                    groups = () if commit is None else commit.groups
                    # The first one: in the last group it would be there for company only.
                    videos = next((group for group in groups if video in group), ())
                if not videos:
                    lost.append((view, video))
                    continue
                company = found.setdefault(videos, Company(videos))
                company.rows.setdefault((view, video), []).extend(generation.arrays)
        return list(found.values()), lost

    def cut(self, companies: Sequence[Company]) -> Iterator[tuple[Company, dict[int, CutVideo]]]:
        """Decode the videos of each company once, ahead, in threads."""
        tasks = [(video, company.views) for company in companies for video in company.videos]
        videos = ordered_map(lambda task: self._cut_video(*task), tasks, threads=self.threads)
        for company in companies:
            cuts = list(islice(videos, len(company.videos)))
            yield company, dict(zip(company.videos, cuts, strict=True))

    def answers(
        self, teacher: Teacher, company: Company, cuts: dict[int, CutVideo]
    ) -> dict[Address, TeacherOutput]:
        """What the teacher says now of each row, B = 1; without rows that lack a clip."""
        found: dict[Address, TeacherOutput] = {}
        if self.grouped:
            for view in company.views:
                clips = [cuts[video].clips.get(view) for video in company.videos]
                there = [clip for clip in clips if clip is not None]
                if len(there) == len(clips):
                    answer = teacher.predict(torch.stack(there))
                    for place, video in enumerate(company.videos):
                        found[view, video] = answer.single(place)
            return found
        (video,) = company.videos
        views = list(cuts[video].clips)
        for start in range(0, len(views), CLIPS_PER_FORWARD):
            part = views[start : start + CLIPS_PER_FORWARD]
            answer = teacher.predict(torch.stack([cuts[video].clips[view] for view in part]))
            found |= {(view, video): answer.single(place) for place, view in enumerate(part)}
        return found

    def twice(
        self, teacher: Teacher, companies: Sequence[Company]
    ) -> list[tuple[TeacherOutput, TeacherOutput]]:
        """Two live answers each to a few clips, made in two ways that should say the same.

        In mode eval each clip alone and in a batch of CLIPS_PER_FORWARD; in mode batch one group in
        its order and in the opposite one. None where no clip can be had.
        """
        if self.grouped:
            for company, cuts in self.cut(companies[:CLIPS_PER_FORWARD]):
                view = company.views[0]
                if all(view in cut.clips for cut in cuts.values()):
                    clips = torch.stack([cut.clips[view] for cut in cuts.values()])
                    one, other = teacher.predict(clips), teacher.predict(clips.flip(0))
                    last = len(clips) - 1
                    return [
                        (one.single(place), other.single(last - place))
                        for place in range(len(clips))
                    ]
            return []
        singles = [
            clip
            for _, cuts in self.cut(companies[:CLIPS_PER_FORWARD])
            for cut in cuts.values()
            for clip in list(cut.clips.values())[:1]
        ]
        if not singles:
            return []
        full = [singles[place % len(singles)] for place in range(CLIPS_PER_FORWARD)]
        together = teacher.predict(torch.stack(full))
        return [
            (teacher.predict(clip[None]), together.single(place))
            for place, clip in enumerate(singles)
        ]

    def _cut_video(self, video: int, views: Sequence[int]) -> CutVideo:
        entry = self.entries[video]
        try:
            with open_entry(self.index, entry, self.experiment.data) as opened:
                return self._cut_opened(opened, video, entry, views)
        except UnreadableVideoError as error:
            problem = f"cannot be decoded any more: {error.reason}"
            return CutVideo(problems=dict.fromkeys(views, problem))

    def _cut_opened(
        self, opened: VideoReader, video: int, entry: VideoEntry, views: Sequence[int]
    ) -> CutVideo:
        cut, params = CutVideo(), {}
        stored = self._stored_views(video, views)
        for place, view in enumerate(views):
            drawn = draw_view(
                clip=self.experiment.clip,
                views=self.experiment.views,
                video_id=entry.id,
                view=view,
                num_frames=opened.num_frames,
                height=opened.height,
                width=opened.width,
            )
            cut.drawn[view] = drawn.to_row()
            try:
                params[view] = (
                    drawn if stored is None else _replayable(stored[place], drawn, opened)
                )
            except ValueError as error:
                cut.problems[view] = f"cannot be cut again: {error}"
        if params:
            clips = cut_clips(opened, list(params.values()), size=self.experiment.views.size)
            cut.clips.update(zip(params, clips, strict=True))
        return cut

    def _stored_views(self, video: int, views: Sequence[int]) -> NDArray[np.int32] | None:
        """Stored parameters (views, T + 8): they are the truth, the seed only a label.

        None for a video that a later run could not read: it kept others company when it could be.
        """
        if video in self.reader.failed:
            return None
        empty = self.reader.empty("views", len(views))
        return self.reader.gather("views", views, [video] * len(views), empty)


def _replayable(row: NDArray[np.int32], drawn: ViewParams, opened: VideoReader) -> ViewParams:
    """A stored view, if it is one of this video.

    Raises:
        ValueError: If it is none.
    """
    params = ViewParams.from_row(row)
    if max(params.frame_indices) >= opened.num_frames:
        raise ValueError(
            f"it asks for frame {max(params.frame_indices)} of {opened.num_frames} frames"
        )
    size, expected = ((view.frame_height, view.frame_width) for view in (params, drawn))
    if size != expected:
        raise ValueError(f"it was cut from frames of {size} pixels, these have {expected}")
    return params
