"""What is to be done of a unit: its videos, which are known to be bad, how the teacher runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reskd.common.distill.teacher import BATCH_GROUP, Teacher
from reskd.teacher_cache.fill.batches import (
    ClipBatch,
    across_videos,
    batch_groups,
    by_video,
    group_order,
    in_groups,
)
from reskd.teacher_cache.fill.computed import computed_here
from reskd.teacher_cache.fill.cut import CutTask, CutVideo
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.format.commits import TAKEN_OUT, Computed, failures, read_commit
from reskd.teacher_cache.format.manifest import Generation, Manifest
from reskd.teacher_cache.read.reader import CacheReader


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitWork:
    """One unit to compute."""

    unit: int
    videos: range
    tasks: list[CutTask]
    """One for each video, in the order in which the teacher sees them; places are in the unit."""
    grouped: bool
    """Whether the teacher sees groups of videos."""
    computed: Computed | None
    """How the teacher runs, for the record; None shows it each video by itself."""

    def batches(self, videos: Iterable[CutVideo]) -> Iterator[ClipBatch]:
        """What the teacher sees at once, of the readable videos."""
        if self.grouped:
            return in_groups(videos)
        if self.computed is None:
            return by_video(videos)
        return across_videos(videos, self.computed.batch_clips)

    def groups(self, failed: Mapping[int, str]) -> list[list[int]]:
        """The groups in which the teacher has seen the videos; none in mode eval."""
        if not self.grouped:
            return []
        ordered = [self.videos[task.place] for task in self.tasks]
        return batch_groups([video for video in ordered if video not in failed])


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitPlanner:
    """Says what is to be done of units of one run."""

    job: Job
    manifest: Manifest
    generation: Generation
    teacher: Teacher | None
    """None if the run needs none."""
    reader: CacheReader | None
    """Of the views, where they are stored already."""
    again: Mapping[int, Computed | None]
    """Units that are computed again, and how they were computed."""

    def plan(self, unit: int, batch_clips: int) -> UnitWork:
        """Plan a unit.

        Args:
            unit: Its number.
            batch_clips: Clips that the teacher sees at once, and the most for a unit that is
                computed again.
        """
        videos = self.manifest.layout.videos_of(unit)
        known = _earlier_failures(self.job.folder, self.generation, unit)
        known |= {video: TAKEN_OUT for video in videos if video in self.job.gone}
        order: Sequence[int] = range(len(videos))
        if self.job.grouped:
            order = group_order(self.job.experiment.views.seed, unit, len(videos))
        return UnitWork(
            unit=unit,
            videos=videos,
            tasks=[self._task(videos[place], place, known) for place in order],
            grouped=self.job.grouped and self.teacher is not None,
            computed=self._computed(unit, batch_clips),
        )

    def _task(self, video: int, place: int, known: Mapping[int, str]) -> CutTask:
        views, stored = self.generation.view_range, None
        if self.reader is not None and video not in known:
            empty = self.reader.empty("views", len(views))
            stored = self.reader.gather("views", views, [video] * len(views), empty)
        return CutTask(
            place,
            self.job.entries[video],
            views,
            stored,
            known_failure=known.get(video),
            drawn_as=self.job.id_of(video),
        )

    def _computed(self, unit: int, batch_clips: int) -> Computed | None:
        if self.teacher is None:
            return None
        recorded = self.again.get(unit)
        if recorded is None and unit in self.again:
            return None
        if self.job.grouped:
            return computed_here(self.teacher, BATCH_GROUP)
        here = computed_here(self.teacher, batch_clips)
        if recorded is None:
            return here
        return replace(here, batch_clips=min(batch_clips, recorded.batch_clips))


def _earlier_failures(folder: Path, generation: Generation, unit: int) -> dict[int, str]:
    """Videos of a unit that earlier runs could not read: what is marked once stays marked."""
    earlier = (read_commit(folder, number, unit) for number in range(1, generation.number))
    return failures(commit for commit in earlier if commit is not None)
