"""From videos to clips: decode the frames of all views of a video once, and cut the views.

The one way in which the room makes clips: for the accuracy check, the fill and the verification.
"""

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.experiment import Experiment
from reskd.common.own_code import trust_code
from reskd.common.prefetch import ordered_map
from reskd.common.torch_threads import pool_of_single_threads
from reskd.common.video.clips import UnionFrames, cut_clips, read_union, union_bytes
from reskd.common.video.preprocess import shrink
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.views import ViewParams, draw_view
from reskd.common.worker_processes import ordered_map_in_processes, shared_memory_holds
from reskd.teacher_cache.format.layout import DECODED_BYTES
from reskd.teacher_cache.format.plan import clip_bytes

MOST_THREADS: Final = 8
"""More workers are processes: so many threads wait for Python's lock, and the teacher with them."""
LOOK_AHEAD_PER_THREAD: Final = 4
"""Videos begun and not yet handed on. That is done in order, so a slow video holds up those behind
it; with four per thread the threads go on meanwhile."""
CPU: Final = torch.device("cpu")
_NO_CLIPS: Final = torch.empty(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """Where clips come from."""

    experiment: Experiment
    """Says how clips are drawn, cut and decoded."""
    index: VideoIndex
    """Knows the files."""
    threads: int
    """That decode."""
    decoded_bytes: int = DECODED_BYTES
    """Bound of the clips that are decoded ahead."""

    def without_videos(self) -> "ClipSource":
        """The same to be sent elsewhere: tasks bring their own entries."""
        return replace(self, index=replace(self.index, videos=()))


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
    known_failure: str | None = None
    """Why an earlier run could not read the video: then it is not tried again."""
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
    clips_VT3HW: Tensor = _NO_CLIPS
    """The views of `params` as the teacher sees them, uint8."""
    union: UnionFrames | None = None
    """What `clips_VT3HW` are yet to be cut from, on another device; None once they are."""
    frames_VT3hw: Tensor = _NO_CLIPS
    """The same as the student sees them, if it was asked for."""
    misfits: dict[int, str] = field(default_factory=dict)
    """Stored views that cannot be views of this video, with the reason."""
    failure: str | None = None
    """Reason if the video could not be read."""
    seconds: float = 0.0
    """Time that decoding and cutting took."""

    def pin_memory(self) -> "CutVideo":
        """The same in memory from which a GPU copies without a wait."""
        if self.union is not None:
            frames_NHW3 = self.union.frames_NHW3.pin_memory()
            return replace(self, union=self.union._replace(frames_NHW3=frames_NHW3))
        return replace(self, clips_VT3HW=self.clips_VT3HW.pin_memory())

    def only(self, views: Iterable[int]) -> "CutVideo":
        """The same with some of the views that were cut, in their order."""
        kept = {view: self.params[view] for view in views}
        clips = [self.clip(view) for view in kept]
        return replace(self, params=kept, clips_VT3HW=torch.stack(clips) if clips else _NO_CLIPS)

    @property
    def problem(self) -> str | None:
        """Why not all of its views could be cut."""
        return self.failure or next(iter(self.misfits.values()), None)

    def clip(self, view: int) -> Tensor:
        """The clip of one view that was cut, (T, 3, H, W)."""
        return self.clips_VT3HW[list(self.params).index(view)]


def cut_videos(
    source: ClipSource,
    tasks: Iterable[CutTask],
    *,
    views: int | None = None,
    student_size: int = 0,
    device: torch.device = CPU,
    cut_there: bool = False,
) -> Generator[CutVideo, None, None]:
    """Decode and cut ahead, in threads; results come in the order of the tasks.

    More than MOST_THREADS are processes where the memory holds what these share. One that is
    killed ends this with the error of `worker_has_died`.

    Args:
        source: Where the videos are.
        tasks: Asked for as there is room for them.
        views: Most views of a task; None is as many as the experiment has.
        student_size: Side of the student's frames, to be made too; 0 makes none.
        device: That the clips go to: they come ready to be copied there without a wait.
        cut_there: Whether views will be cut on the device: videos then come with their frames,
            unless these take more than a video's share of the memory.
    """
    experiment = source.experiment
    views = experiment.views.count if views is None else views
    video_bytes, frame_bytes = views * clip_bytes(experiment, student_size), 0
    if cut_there:
        share = source.decoded_bytes // (LOOK_AHEAD_PER_THREAD * source.threads + 1)
        video_bytes = frame_bytes = max(video_bytes, share)
    ahead = look_ahead(source.threads, video_bytes, source.decoded_bytes)
    pinned = device.type == "cuda"
    if source.threads > MOST_THREADS and shared_memory_holds(2 * ahead * video_bytes):
        # What pins memory is the process that the GPU belongs to.
        way = _Way(frame_bytes=frame_bytes, pinned=False)
        return ordered_map_in_processes(
            partial(_cut_in_a_process, source.without_videos(), student_size, way),
            tasks,
            processes=source.threads,
            ahead=ahead,
            pinned=pinned,
        )
    way = _Way(frame_bytes=frame_bytes, pinned=pinned)
    return ordered_map(
        partial(_cut_video, source, student_size, way),
        tasks,
        threads=source.threads,
        ahead=ahead,
        pool=pool_of_single_threads,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """In which form videos come."""

    frame_bytes: int
    """Those whose frames take no more come uncut."""
    pinned: bool
    """In memory from which a GPU copies without a wait."""


def look_ahead(threads: int, video_bytes: int, most_bytes: int) -> int:
    """Videos begun and not yet handed on: four per thread, or fewer that fit into memory.

    One more is in memory, the one that was handed on last.

    Args:
        threads: That decode.
        video_bytes: Of the clips of one video.
        most_bytes: Bound for all of them; two videos may be begun whatever they take.
    """
    return max(2, min(LOOK_AHEAD_PER_THREAD * threads, most_bytes // video_bytes - 1))


def _cut_in_a_process(source: ClipSource, student_size: int, way: _Way, task: CutTask) -> CutVideo:
    trust_code(*source.experiment.code_names)  # as this process's main one does
    return _cut_video(source, student_size, way, task)


def _cut_video(source: ClipSource, student_size: int, way: _Way, task: CutTask) -> CutVideo:
    start, experiment = time.perf_counter(), source.experiment
    if task.known_failure is not None:
        return CutVideo(task=task, failure=task.known_failure)
    try:
        wanted = experiment.views.count * experiment.clip.num_frames
        with open_entry(source.index, task.entry, experiment.data, num_wanted=wanted) as video:
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
            union, clips_VT3HW = _frames_or_clips(
                video, list(params.values()), experiment.views.size, way
            )
    except UnreadableVideoError as error:
        return CutVideo(task=task, failure=error.reason, seconds=time.perf_counter() - start)
    return CutVideo(
        task=task,
        drawn=drawn,
        params=params,
        clips_VT3HW=clips_VT3HW,
        union=union,
        frames_VT3hw=shrink(clips_VT3HW, student_size)
        if student_size and clips_VT3HW.numel()
        else _NO_CLIPS,
        misfits=misfits,
        seconds=time.perf_counter() - start,
    )


def _frames_or_clips(
    video: VideoReader, views: Sequence[ViewParams], size: int, way: _Way
) -> tuple[UnionFrames | None, Tensor]:
    """The frames of some views, if they are cut elsewhere and fit; else the views."""
    if not views:
        return None, _NO_CLIPS
    if union_bytes(video, views) > way.frame_bytes:
        return None, cut_clips(video, views, size=size, pinned=way.pinned)
    union = read_union(video, views, most_bytes=way.frame_bytes)
    if way.pinned:
        union = union._replace(frames_NHW3=union.frames_NHW3.pin_memory())
    return union, _NO_CLIPS


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
