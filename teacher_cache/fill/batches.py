"""Which clips the teacher sees together: pure, from the videos of a unit to batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

import numpy as np
from torch import Tensor

from reskd.common.distill.arrays import Row
from reskd.common.distill.teacher import BATCH_GROUP
from reskd.common.rng import keyed_generator
from reskd.teacher_cache.fill.cut import CutVideo

CLIPS_OF_ONE_VIDEO: Final = 8
"""Clips the teacher sees at once where each video is shown by itself."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One view of one video."""

    video: CutVideo
    number: int
    """Among the views that were cut of the video."""
    view: int

    @property
    def place(self) -> int:
        """Of the video among those asked for."""
        return self.video.task.place

    @property
    def pixels(self) -> Tensor:
        """As the teacher sees it, (T, 3, H, W) uint8."""
        return self.video.clips_VT3HW[self.number]

    @property
    def last(self) -> bool:
        """Whether it is the last one of its video."""
        return self.number == len(self.video.params) - 1

    def own_rows(self) -> dict[str, Row]:
        """What is stored of it without asking the teacher, by array, (1, *row_shape)."""
        rows: dict[str, Row] = {"views": self.video.params[self.view].to_row()[np.newaxis]}
        if self.video.frames_VT3hw.numel():
            rows["frames"] = self.video.frames_VT3hw[self.number : self.number + 1].numpy()
        return rows


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """What the teacher sees at once."""

    clips: tuple[Clip, ...]
    """Whose outputs are kept."""
    fillers: tuple[Clip, ...] = ()
    """Seen after them, whose outputs are dropped."""

    @property
    def pixels(self) -> list[Tensor]:
        """All that is seen, B tensors (T, 3, H, W)."""
        return [clip.pixels for clip in (*self.clips, *self.fillers)]


def across_videos(videos: Iterable[CutVideo], size: int) -> Iterator[ClipBatch]:
    """Batches of one size over the borders of videos; the last one is filled with its last clip."""
    clips = chain.from_iterable(map(_clips_of, videos))
    while batch := tuple(islice(clips, size)):
        yield ClipBatch(batch, (batch[-1],) * (size - len(batch)))


def by_video(videos: Iterable[CutVideo]) -> Iterator[ClipBatch]:
    """Each video by itself, in batches of up to CLIPS_OF_ONE_VIDEO: as caches once were filled."""
    for video in videos:
        clips = _clips_of(video)
        while batch := tuple(islice(clips, CLIPS_OF_ONE_VIDEO)):
            yield ClipBatch(batch)


def in_groups(videos: Iterable[CutVideo]) -> Iterator[ClipBatch]:
    """The same view of each video of a group, for a teacher in mode batch; see `batch_groups`."""
    fillers: list[CutVideo] = []
    videos = iter(videos)
    while group := list(islice(videos, BATCH_GROUP)):
        filled = [*group, *fillers[: BATCH_GROUP - len(group)]]
        fillers = fillers or group
        for clips in zip(*map(_clips_of, filled), strict=True):
            yield ClipBatch(clips[: len(group)], clips[len(group) :])


def group_order(seed: int, unit: int, num_videos: int) -> list[int]:
    """Order in which a unit's videos form groups: mixed, since neighbours in an index are alike."""
    order: list[int] = keyed_generator(seed, "groups", unit).permutation(num_videos).tolist()
    return order


def batch_groups(readable: Sequence[int]) -> list[list[int]]:
    """Cut readable videos into groups of BATCH_GROUP.

    The last one is filled up with the first videos, whose outputs in it are not kept; only where
    there are fewer than BATCH_GROUP in all is it smaller.
    """
    groups = [
        list(readable[start : start + BATCH_GROUP])
        for start in range(0, len(readable), BATCH_GROUP)
    ]
    if len(groups) > 1:
        groups[-1] += readable[: BATCH_GROUP - len(groups[-1])]
    return groups


def _clips_of(video: CutVideo) -> Iterator[Clip]:
    """The views that were cut, in order."""
    return (Clip(video, number, view) for number, view in enumerate(video.params))
