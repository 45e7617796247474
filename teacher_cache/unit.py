"""One unit: decode every video once, cut all its views, ask the teacher, encode its answers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.distill.arrays import Row, TargetPlan
from common.distill.targets import encode
from common.distill.teacher import Teacher
from common.models.recognizer import ClipOutput
from common.prefetch import ordered_map
from common.specs import Experiment
from common.video.clips import cut_clips
from common.video.index import VideoEntry, VideoIndex
from common.video.reader import UnreadableVideoError, open_video
from common.video.view_params import ViewParams, draw_view, failed_row

CLIPS_PER_FORWARD = 8
"""Clips the teacher sees at once. Fixed, so that a unit's bytes never depend on settings."""


@dataclass(frozen=True, slots=True)
class VideoAnswer:
    """Everything the store keeps of one video, or why there is nothing."""

    rows: dict[str, Row]
    """Per array (V, *row_shape); of a failed video only `views`."""
    failure: str | None
    """Reason if the video could not be read."""


@dataclass(frozen=True, slots=True)
class _CutVideo:
    params: tuple[ViewParams, ...]
    clips_VT3HW: Tensor
    failure: str | None = None


def answer_videos(
    experiment: Experiment,
    index: VideoIndex,
    entries: tuple[VideoEntry, ...],
    *,
    plan: TargetPlan,
    teacher: Teacher,
    threads: int,
) -> Iterator[VideoAnswer]:
    """Answers to all views of some videos, in order.

    Decoding runs ahead in threads; the teacher runs in the calling thread.
    """

    def cut(entry: VideoEntry) -> _CutVideo:
        return _cut_video(experiment, index, entry)

    for video in ordered_map(cut, entries, threads=threads):
        if video.failure is not None:
            row = failed_row(experiment.clip.num_frames)
            views = np.repeat(row[np.newaxis], experiment.views.count, axis=0)
            yield VideoAnswer({"views": views}, video.failure)
            continue
        rows = encode(plan, _ask(teacher, video.clips_VT3HW), video.clips_VT3HW)
        rows["views"] = np.stack([params.to_row() for params in video.params])
        yield VideoAnswer(rows, None)


def _cut_video(experiment: Experiment, index: VideoIndex, entry: VideoEntry) -> _CutVideo:
    """Decode the union of the frames of all views once, and cut the views from it."""
    try:
        with open_video(index.path_of(entry), experiment.data.decoder) as video:
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
                for view in range(experiment.views.count)
            )
            return _CutVideo(params, cut_clips(video, params, size=experiment.views.size))
    except UnreadableVideoError as error:
        return _CutVideo((), torch.empty(0), failure=error.reason)


def _ask(teacher: Teacher, clips_VT3HW: Tensor) -> ClipOutput:
    outputs = [teacher.answer(clips) for clips in clips_VT3HW.split(CLIPS_PER_FORWARD)]
    features, logits = zip(*outputs, strict=True)
    return ClipOutput(torch.cat(features), torch.cat(logits))
