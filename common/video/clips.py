"""From an open video to clips: a frame is decoded and resized once, however many views use it."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from reskd.common.video.preprocess import crop_and_resize, resize_short_side
from reskd.common.video.reader import VideoReader, in_parts
from reskd.common.video.views import ViewParams

SLICE_BYTES: Final = 512 * 1024**2
"""Frames of source size that are held at once: a video of many views has thousands in 1080p."""


def cut_clips(video: VideoReader, views: Sequence[ViewParams], *, size: int) -> Tensor:
    """Cut several views of one video.

    Args:
        video: Open reader.
        views: Their parameters, all of this video.
        size: Side of the teacher's frames in pixels.

    Returns:
        (V, T, 3, size, size) uint8.

    Raises:
        UnreadableVideoError: If one of the frames cannot be decoded.
    """
    wanted = sorted({index for view in views for index in view.frame_indices})
    place = {index: position for position, index in enumerate(wanted)}
    height, width = views[0].frame_height, views[0].frame_width
    small = torch.cat(
        [
            resize_short_side(torch.from_numpy(video.frames(part)), height, width)
            for part in in_parts(wanted, video, most_bytes=SLICE_BYTES)
        ]
    )
    return torch.stack(
        [
            crop_and_resize(small[[place[index] for index in view.frame_indices]], view, size)
            for view in views
        ]
    )
