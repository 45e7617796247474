"""From videos to clips: decode the frames of all views of a video once, and cut the views.

The one way in which the room makes clips: for the accuracy check, the fill and the verification.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.experiment import Experiment
from reskd.common.prefetch import ordered_map
from reskd.common.video.clips import cut_clips
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.views import ViewParams, draw_view


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """Where clips come from."""

    experiment: Experiment
    """Says how clips are drawn, cut and decoded."""
    index: VideoIndex
    """Knows the files."""
    threads: int
    """Videos decoded ahead."""


@dataclass(frozen=True, slots=True)
class CutTask:
    """Some views to cut from a video."""

    place: int
    """Number of the video among those asked for."""
    entry: VideoEntry
    views: Sequence[int]
    """Numbers of the views."""
    stored: NDArray[np.int32] | None = None
    """Their rows (views, T + 8) of array `views`: these are the truth, the seed only a label. None
    draws the views."""
    drawn_as: str | None = None
    """Id that the seed's draws go by; None: the entry's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutVideo:
    """The views of one video, or why there are none."""

    task: CutTask
    drawn: dict[int, ViewParams] = field(default_factory=dict)
    """By view number, as the seed gives them."""
    params: dict[int, ViewParams] = field(default_factory=dict)
    """By view number, those that were cut."""
    clips_VT3HW: Tensor = field(default_factory=lambda: torch.empty(0))
    """The views of `params` as the teacher sees them, uint8."""
    misfits: dict[int, str] = field(default_factory=dict)
    """Stored views that cannot be views of this video, with the reason."""
    failure: str | None = None
    """Reason if the video could not be read."""
    seconds: float = 0.0
    """Time that decoding and cutting took."""

    def clip(self, view: int) -> Tensor:
        """The clip of one view that was cut, (T, 3, H, W)."""
        return self.clips_VT3HW[list(self.params).index(view)]


def cut_videos(source: ClipSource, tasks: Iterable[CutTask]) -> Iterator[CutVideo]:
    """Decode and cut ahead, in threads; results come in the order of the tasks."""
    return ordered_map(lambda task: _cut_video(source, task), tasks, threads=source.threads)


def _cut_video(source: ClipSource, task: CutTask) -> CutVideo:
    start, experiment = time.perf_counter(), source.experiment
    try:
        with open_entry(source.index, task.entry, experiment.data) as video:
            drawn = {
                view: draw_view(
                    clip=experiment.clip,
                    views=experiment.views,
                    video_id=task.drawn_as or task.entry.id,
                    view=view,
                    num_frames=video.num_frames,
                    height=video.height,
                    width=video.width,
                )
                for view in task.views
            }
            params, misfits = _views_to_cut(task, drawn, video.num_frames)
            clips_VT3HW = (
                cut_clips(video, list(params.values()), size=experiment.views.size)
                if params
                else torch.empty(0)
            )
    except UnreadableVideoError as error:
        return CutVideo(task=task, failure=error.reason, seconds=time.perf_counter() - start)
    return CutVideo(
        task=task,
        drawn=drawn,
        params=params,
        clips_VT3HW=clips_VT3HW,
        misfits=misfits,
        seconds=time.perf_counter() - start,
    )


def _views_to_cut(
    task: CutTask, drawn: dict[int, ViewParams], num_frames: int
) -> tuple[dict[int, ViewParams], dict[int, str]]:
    """The stored views where there are any, and why some of them are none of this video."""
    if task.stored is None:
        return drawn, {}
    params: dict[int, ViewParams] = {}
    misfits: dict[int, str] = {}
    for row, (view, expected) in zip(task.stored, drawn.items(), strict=True):
        try:
            params[view] = _fitting(row, expected, num_frames)
        except ValueError as error:
            misfits[view] = f"cannot be cut again: {error}"
    return params, misfits


def _fitting(row: NDArray[np.int32], drawn: ViewParams, num_frames: int) -> ViewParams:
    """A stored view, if it can be one of this video.

    Raises:
        ValueError: If it cannot.
    """
    params = ViewParams.from_row(row)
    if max(params.frame_indices) >= num_frames:
        raise ValueError(f"it asks for frame {max(params.frame_indices)} of {num_frames} frames")
    size, expected = ((view.frame_height, view.frame_width) for view in (params, drawn))
    if size != expected:
        raise ValueError(f"it was cut from frames of {size} pixels, these have {expected}")
    return params
