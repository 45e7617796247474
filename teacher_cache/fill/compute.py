"""From clips to rows: run the teacher on the cut views of some videos and encode its outputs."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.encoding import encode
from reskd.common.distill.teacher import BATCH_GROUP, Teacher, TeacherOutput, joined
from reskd.common.rng import keyed_generator
from reskd.common.video.views import failed_row
from reskd.teacher_cache.fill.cut import ClipSource, CutTask, CutVideo, cut_videos
from reskd.teacher_cache.fill.meters import FillMeters

CLIPS_PER_FORWARD = 8
"""Clips the teacher sees at once. Fixed, so that a unit's bytes never depend on settings."""


@dataclass(frozen=True, slots=True)
class VideoOutput:
    """Everything the store keeps of one video."""

    place: int
    """Of the video among those asked for."""
    rows: dict[str, Row]
    """Per array (views, *row_shape); of a failed video zeros, and `views` marked as failed."""
    failure: str | None
    """Reason if the video could not be read."""


def teacher_outputs(
    teacher: Teacher, clips_VT3HW: Sequence[Tensor], meters: FillMeters
) -> Iterator[TeacherOutput]:
    """Run the teacher on a group of videos: one in mode eval, in mode batch up to BATCH_GROUP.

    In mode eval it sees the views of a video together, in mode batch the same view of all videos.

    Args:
        teacher: Its mode decides.
        clips_VT3HW: Clips of every video, equally many.
        meters: Clips and time are added to them.

    Yields:
        The outputs (V, ...) for each video.
    """
    if teacher.mode == "batch":
        clips_BVT3HW = torch.stack(list(clips_VT3HW))
        by_view = [
            _predict(teacher, clips_BVT3HW[:, view], meters)
            for view in range(clips_BVT3HW.shape[1])
        ]
        for place in range(len(clips_VT3HW)):
            yield joined([output.single(place) for output in by_view])
    else:
        for clips in clips_VT3HW:
            parts = clips.split(CLIPS_PER_FORWARD)
            yield joined([_predict(teacher, part, meters) for part in parts])


def compute_outputs(
    source: ClipSource,
    plan: TargetPlan,
    tasks: Iterable[CutTask],
    teacher: Teacher | None,
    meters: FillMeters,
) -> Iterator[VideoOutput]:
    """Rows of some videos: decoding runs ahead, the teacher runs in the calling thread.

    A teacher in mode batch sees readable videos in the groups of `batch_groups`, in order.

    Args:
        source: Where the videos are.
        plan: Arrays to make.
        tasks: The videos, with the same views of each.
        teacher: None if no planned array needs it.
        meters: What is done is added to them.
    """
    size = BATCH_GROUP if teacher is not None and teacher.mode == "batch" else 1
    fillers: list[CutVideo] = []
    group: list[CutVideo] = []
    for video in _timed(cut_videos(source, tasks), meters):
        problem = video.failure or next(iter(video.misfits.values()), None)
        if problem is not None:
            yield failed_output(source, plan, video.task, problem)
            continue
        group.append(video)
        if len(group) == size:
            if size > 1:
                fillers = fillers or group
            yield from _encoded(plan, group, teacher, meters, wanted=size)
            group = []
    if group:
        filled = [*group, *fillers[: size - len(group)]]
        yield from _encoded(plan, filled, teacher, meters, wanted=len(group))


def failed_output(source: ClipSource, plan: TargetPlan, task: CutTask, reason: str) -> VideoOutput:
    """Rows that are never read: zeros, and the mark that says so."""
    views = len(task.views)
    rows: dict[str, Row] = {
        array.name: np.zeros((views, *array.row_shape), array.dtype) for array in plan.arrays
    }
    mark = failed_row(source.experiment.clip.num_frames)
    rows["views"] = np.repeat(mark[np.newaxis], views, axis=0)
    return VideoOutput(task.place, rows, reason)


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


def _timed(videos: Iterator[CutVideo], meters: FillMeters) -> Iterator[CutVideo]:
    while True:
        start = time.perf_counter()
        video = next(videos, None)
        meters.wait_seconds += time.perf_counter() - start
        if video is None:
            return
        meters.decode_seconds += video.seconds
        yield video


def _predict(teacher: Teacher, clips_BT3HW: Tensor, meters: FillMeters) -> TeacherOutput:
    start = time.perf_counter()
    output = teacher.predict(clips_BT3HW)
    if teacher.device.type == "cuda":  # or encoding, which waits for the device, would pay for it
        torch.cuda.synchronize(teacher.device)
    meters.forward_seconds += time.perf_counter() - start
    meters.clips += len(clips_BT3HW)
    return output


def _encoded(
    plan: TargetPlan,
    group: Sequence[CutVideo],
    teacher: Teacher | None,
    meters: FillMeters,
    *,
    wanted: int,
) -> Iterator[VideoOutput]:
    """Rows of the first `wanted` videos of a group; the others only fill it up."""
    outputs: Iterable[TeacherOutput | None] = (
        repeat(None)
        if teacher is None
        else teacher_outputs(teacher, [video.clips_VT3HW for video in group], meters)
    )
    for video, output in zip(group[:wanted], outputs, strict=False):
        rows = encode(plan, output, video.clips_VT3HW)
        rows["views"] = np.stack([params.to_row() for params in video.params.values()])
        meters.videos += 1
        yield VideoOutput(video.task.place, rows, None)
