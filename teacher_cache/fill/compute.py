"""One unit: decode every video once, cut all its views, ask the teacher, encode its answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.encoding import encode
from reskd.common.distill.teacher import BATCH_GROUP, Teacher, TeacherOutput, joined
from reskd.common.experiment import Experiment
from reskd.common.prefetch import ordered_map
from reskd.common.rng import keyed_generator
from reskd.common.video.clips import cut_clips
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.views import ViewParams, draw_view, failed_row

CLIPS_PER_FORWARD = 8
"""Clips the teacher sees at once. Fixed, so that a unit's bytes never depend on settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is wanted of some videos."""

    experiment: Experiment
    """Says how clips are drawn, cut and decoded."""
    index: VideoIndex
    """Knows the files."""
    plan: TargetPlan
    """Arrays to make."""
    views: range
    """Views of every video."""
    replay: Mapping[int, NDArray[np.int32]] | None = None
    """Per place the stored rows (views, T + 8) of array `views`; None draws the views."""
    known_failures: Mapping[int, str]
    """Places that are not tried again, with the reason."""
    threads: int
    """Videos decoded ahead."""


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """Everything the store keeps of one video."""

    place: int
    """Of the video among those asked for."""
    rows: dict[str, Row]
    """Per array (views, *row_shape); of a failed video zeros, and `views` marked as failed."""
    failure: str | None
    """Reason if the video could not be read."""


@dataclass(frozen=True, slots=True)
class CutVideo:
    """The views of one video, or why there are none."""

    place: int
    params: tuple[ViewParams, ...]
    clips_VT3HW: Tensor
    failure: str | None = None


def compute_outputs(
    request: Request, entries: Sequence[VideoEntry], teacher: Teacher | None
) -> Iterator[VideoOutput]:
    """Answers to the views of some videos, in order. The teacher sees each video's views together.

    Decoding runs ahead in threads; the teacher runs in the calling thread.

    Args:
        request: What is wanted.
        entries: The videos.
        teacher: In mode eval; None if no planned array needs it.
    """
    for video in cut_videos(request, entries, range(len(entries))):
        if video.failure is not None:
            yield _failed(request, video)
            continue
        answer = None
        if teacher is not None:
            parts = [teacher.predict(clips) for clips in video.clips_VT3HW.split(CLIPS_PER_FORWARD)]
            answer = joined(parts)
        yield _encoded(request, video, answer)


def run_in_groups(
    request: Request, entries: Sequence[VideoEntry], teacher: Teacher, order: Sequence[int]
) -> Iterator[VideoOutput]:
    """Answers of a teacher in mode batch: view by view, BATCH_GROUP videos at a time.

    The groups are those of `batch_groups` over the readable places of `order`.

    Args:
        request: What is wanted.
        entries: The videos.
        teacher: In mode batch.
        order: Their places, in the order in which groups are filled.
    """
    first: list[CutVideo] = []
    group: list[CutVideo] = []
    for video in cut_videos(request, entries, order):
        if video.failure is not None:
            yield _failed(request, video)
            continue
        group.append(video)
        if len(group) == BATCH_GROUP:
            first = first or group
            yield from _group_answers(request, teacher, group, len(group))
            group = []
    if group:
        fillers = first[: BATCH_GROUP - len(group)]
        yield from _group_answers(request, teacher, [*group, *fillers], len(group))


def group_order(seed: int, unit: int, num_videos: int) -> list[int]:
    """Order in which a unit's videos form groups: mixed, since neighbours in an index are alike."""
    order: list[int] = keyed_generator(seed, "groups", unit).permutation(num_videos).tolist()
    return order


def batch_groups(readable: Sequence[int]) -> list[list[int]]:
    """Cut readable videos into groups of BATCH_GROUP.

    The last one is filled up with the first videos, whose answers in it are not kept; only where
    there are fewer than BATCH_GROUP in all is it smaller.
    """
    groups = [
        list(readable[start : start + BATCH_GROUP])
        for start in range(0, len(readable), BATCH_GROUP)
    ]
    if len(groups) > 1:
        groups[-1] += readable[: BATCH_GROUP - len(groups[-1])]
    return groups


def cut_videos(
    request: Request, entries: Sequence[VideoEntry], order: Sequence[int]
) -> Iterator[CutVideo]:
    """Decode each video once, the union of the frames of its views, and cut the views from it."""

    def cut(place: int) -> CutVideo:
        if place in request.known_failures:
            return CutVideo(place, (), torch.empty(0), request.known_failures[place])
        try:
            return _cut_video(request, place, entries[place])
        except UnreadableVideoError as error:
            return CutVideo(place, (), torch.empty(0), error.reason)

    return ordered_map(cut, order, threads=request.threads)


def _cut_video(request: Request, place: int, entry: VideoEntry) -> CutVideo:
    experiment = request.experiment
    with open_entry(request.index, entry, experiment.data) as video:
        if request.replay is not None:
            params = tuple(ViewParams.from_row(row) for row in request.replay[place])
        else:
            params = tuple(
                draw_view(
                    clip=experiment.clip,
                    views=experiment.views,
                    video_id=entry.id,
                    view=view,
                    num_frames=video.num_frames,
                    height=video.height,
                    width=video.width,
                )
                for view in request.views
            )
        return CutVideo(place, params, cut_clips(video, params, size=experiment.views.size))


def _group_answers(
    request: Request, teacher: Teacher, group: list[CutVideo], wanted: int
) -> Iterator[VideoOutput]:
    """Answers for the first `wanted` videos of a group; the others are there for company."""
    clips_BVT3HW = torch.stack([video.clips_VT3HW for video in group])
    by_view = [teacher.predict(clips_BVT3HW[:, view]) for view in range(clips_BVT3HW.shape[1])]
    for place, video in enumerate(group[:wanted]):
        views = [answer.single(place) for answer in by_view]
        yield _encoded(request, video, joined(views))


def _encoded(request: Request, video: CutVideo, answer: TeacherOutput | None) -> VideoOutput:
    rows = encode(request.plan, answer, video.clips_VT3HW)
    rows["views"] = np.stack([params.to_row() for params in video.params])
    return VideoOutput(video.place, rows, None)


def _failed(request: Request, video: CutVideo) -> VideoOutput:
    """Rows that are never read: zeros, and the mark that says so."""
    views = len(request.views)
    rows: dict[str, Row] = {
        array.name: np.zeros((views, *array.row_shape), array.dtype)
        for array in request.plan.arrays
    }
    mark = failed_row(request.experiment.clip.num_frames)
    rows["views"] = np.repeat(mark[np.newaxis], views, axis=0)
    return VideoOutput(video.place, rows, video.failure)
