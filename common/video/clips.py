"""From an open video to clips: a frame is decoded and resized once, however many views use it.

Decoding and cutting are two steps, so that frames may be decoded by one worker and cut by another,
or on another device. Where they are resized to their short side makes no difference to the pixels.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from reskd.common.video.preprocess import (
    Resize,
    crop,
    resize_and_flip,
    resize_bilinear,
    resize_short_side,
)
from reskd.common.video.reader import VideoReader, in_parts
from reskd.common.video.views import ViewParams

SLICE_BYTES: Final = 512 * 1024**2
"""Frames of source size that are held at once: a video of many views has thousands in 1080p."""


class UnionFrames(NamedTuple):
    """The frames of some views of a video, each once."""

    frames_NHW3: Tensor
    """uint8, at source size or already at short-side size."""
    numbers: Sequence[int]
    """N frame numbers, rising."""

    def to(self, device: torch.device) -> "UnionFrames":
        """The same on another device; from pinned memory without a wait."""
        return self._replace(frames_NHW3=self.frames_NHW3.to(device, non_blocking=True))


def read_union(
    video: VideoReader, views: Sequence[ViewParams], *, most_bytes: int = 0
) -> UnionFrames:
    """Decode all frames of several views.

    Args:
        video: Open reader.
        views: Their parameters, all of this video.
        most_bytes: Frames stay at source size if they take no more; else they are brought to their
            short side, a slice at a time. By default they always are.

    Raises:
        UnreadableVideoError: If one of the frames cannot be decoded.
    """
    wanted = _numbers(views)
    if union_bytes(video, views) <= most_bytes:
        return UnionFrames(torch.from_numpy(video.frames(wanted)), wanted)
    height, width = views[0].frame_height, views[0].frame_width
    small = [
        resize_short_side(torch.from_numpy(video.frames(part)), height, width)
        for part in in_parts(wanted, video, most_bytes=SLICE_BYTES)
    ]
    return UnionFrames(torch.cat(small), wanted)


def union_bytes(video: VideoReader, views: Sequence[ViewParams]) -> int:
    """What the frames of several views take at source size."""
    return len(_numbers(views)) * video.height * video.width * 3


def cut_union(
    union: UnionFrames,
    views: Sequence[ViewParams],
    *,
    size: int,
    resize: Resize = resize_bilinear,
    pinned: bool = False,
) -> Tensor:
    """Cut several views from the frames that they share, on the device where these are.

    Nothing is copied from there or to it but small tables, once for each pair of sizes.

    Args:
        union: At least the frames of these views.
        views: Their parameters, all of one video.
        size: Side of the teacher's frames in pixels.
        resize: How; the same bits in any way.
        pinned: Whether the result lies in memory that a GPU can copy from without a wait.

    Returns:
        (V, T, 3, size, size) uint8, on the device of the frames. The colours of a pixel lie beside
        each other in memory, as they came: setting them apart would take longer than the resize.
    """
    height, width = views[0].frame_height, views[0].frame_width
    small = resize_short_side(union.frames_NHW3, height, width, resize)
    place_of = {number: place for place, number in enumerate(union.numbers)}
    clips_VTHW3 = torch.empty(
        (len(views), len(views[0].frame_indices), size, size, 3),
        dtype=torch.uint8,
        device=small.device,
        pin_memory=pinned,
    )
    for clip, view in zip(clips_VTHW3, views, strict=True):
        cropped = crop(small, view)
        frames = torch.stack([cropped[place_of[index]] for index in view.frame_indices])
        clip.copy_(resize_and_flip(frames, view, size, resize))
    return clips_VTHW3.permute(0, 1, 4, 2, 3)


def cut_clips(
    video: VideoReader, views: Sequence[ViewParams], *, size: int, pinned: bool = False
) -> Tensor:
    """Cut several views of one video: `read_union`, then `cut_union`.

    Args:
        video: Open reader.
        views: Their parameters, all of this video.
        size: Side of the teacher's frames in pixels.
        pinned: As in `cut_union`, whose layout the result has.

    Returns:
        (V, T, 3, size, size) uint8.

    Raises:
        UnreadableVideoError: If one of the frames cannot be decoded.
    """
    return cut_union(read_union(video, views), views, size=size, pinned=pinned)


def _numbers(views: Sequence[ViewParams]) -> list[int]:
    """The frames of some views, each once, rising."""
    return sorted({index for view in views for index in view.frame_indices})
