"""Long videos in windows: the clips of one window after the other, in one pass over the file.

A window is a stretch of frames that is read as if it were a video of its own. Only the frames that
clips are made of are kept, at the short side that crops are taken from, and no longer than a window
needs them: memory does not grow with the video. A file is decoded once, in order, by PyAV whatever
data.decoder says (the pixels are decord's); asking for window after window would begin at its first
frame every time.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.dataset.open import open_path
from reskd.common.video.preprocess import crop_and_resize, resize_short_side, shrink
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.video_file import PyAVReader
from reskd.common.video.views import ViewParams
from reskd.student_train.evaluate.clip_reader import Reading


def plan_windows(num_frames: int, *, length: int, step: int) -> list[range]:
    """Windows of `length` frames that begin every `step` frames; the last ends with the video.

    Args:
        num_frames: N, at least 1.
        length: Frames of a window; a shorter video is one window.
        step: From the beginning of one to the next; frames between windows are left out.

    Returns:
        [first, stop) of every window, in order, all of one length.
    """
    if length >= num_frames:
        return [range(num_frames)]
    starts = list(range(0, num_frames - length + 1, step))
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [range(start, start + length) for start in starts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A stretch of a video and its clips."""

    start_seconds: float
    """Frame number over the average rate, also where frames are shown for unequal times."""
    end_seconds: float
    clips: Tensor
    """(V, T, 3, s, s) uint8."""


def read_windows(
    path: Path, reading: Reading, *, seconds: float, step_seconds: float
) -> Iterator[Window]:
    """The windows of a video file, or of a folder of numbered images.

    Raises:
        UnreadableVideoError: If it is no video, does not say how many frames a second has, or a
            frame cannot be decoded; the windows before it have come out by then.
    """
    video = open_path(path, "pyav")
    if not video.fps > 0:
        raise UnreadableVideoError(
            path, "windows", "it does not say how many frames a second has; use clips instead"
        )
    windows = plan_windows(
        video.num_frames,
        length=max(1, round(seconds * video.fps)),
        step=max(1, round(step_seconds * video.fps)),
    )
    views = [_views(reading, window, video) for window in windows]
    wanted = sorted({index for some in views for view in some for index in view.frame_indices})
    kept: dict[int, Tensor] = {}
    with closing(_pictures(video, wanted)) as pictures:
        for window, some in zip(windows, views, strict=True):
            kept = {index: frame for index, frame in kept.items() if index >= window.start}
            needed = {index for view in some for index in view.frame_indices}
            while not needed <= kept.keys():
                index, pixels = next(pictures)
                frames = torch.from_numpy(np.ascontiguousarray(pixels))[None]
                height, width = some[0].frame_height, some[0].frame_width
                kept[index] = resize_short_side(frames, height, width)[0]
            yield Window(
                start_seconds=window.start / video.fps,
                end_seconds=window.stop / video.fps,
                clips=_cut(kept, some, reading),
            )


def _views(reading: Reading, window: range, video: VideoReader) -> list[ViewParams]:
    """The test views of a window, their frames counted from the beginning of the video."""
    return [
        replace(view, frame_indices=tuple(window[index] for index in view.frame_indices))
        for view in reading.test_views(
            num_frames=len(window), height=video.height, width=video.width
        )
    ]


def _cut(kept: dict[int, Tensor], views: Sequence[ViewParams], reading: Reading) -> Tensor:
    clips = [
        crop_and_resize(
            torch.stack([kept[index] for index in view.frame_indices]), view, reading.cut_size
        )
        for view in views
    ]
    return shrink(torch.stack(clips), reading.size)


def _pictures(
    video: VideoReader, positions: Sequence[int]
) -> Generator[tuple[int, NDArray[np.uint8]]]:
    if isinstance(video, PyAVReader):
        yield from video.in_order(positions)
    else:
        for position in positions:
            yield position, video.frames([position])[0]
