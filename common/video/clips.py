"""From an open video to clips: a frame is decoded and resized once, however many views use it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.video.reader import VideoReader
from common.video.view_ops import crop_and_resize, resize_short_side
from common.video.view_params import ViewParams


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
    frames = torch.from_numpy(video.frames(wanted))
    small = resize_short_side(frames, views[0].frame_height, views[0].frame_width)
    return torch.stack(
        [
            crop_and_resize(small[[place[index] for index in view.frame_indices]], view, size)
            for view in views
        ]
    )
