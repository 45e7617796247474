"""Preprocessing v1: from decoded frames to the frames a network sees, given a view's numbers.

    short-side resize -> crop -> resize to a square -> flip       (teacher)
    -> shrink                                                     (student)

All on uint8, in both stages, with the same bits on every device, so frames that were stored and
frames that are replayed are equal. Nothing here is random.

Every resize is bilinear, without antialias, with half-pixel centres (align_corners=False), done on
the CPU by torch's own uint8 kernel: columns first, then rows, with fixed-point integer weights,
halves rounded up after each. Elsewhere integer_resize.py does the same. Integer arithmetic gives
the same bits with and without vector instructions; the tests write it out in numpy and compare.
The neighbours of torch's kernel do not: its float32 one changes up to 5e-5 of the pixels between
plain code and AVX2 (exact halves are common at ratios such as 8/7, and fused multiply-add settles
them), and torchvision's resize picks one kernel or the other by the CPU it runs on.

Against OpenCV's INTER_LINEAR, which the reference uses: one resize differs by at most one grey
level (in 16 % of the pixels, mean +0.1); both resizes together by more than one in 0.4 %, at most
two, mean +0.23, which is 0.004 standard deviations of the normalised input.

Measured, one thread, 16 frames: 240x320 to 256x341 4.2 ms; crop, resize to 224 and flip 3.3 ms, the
only part that is done per view; shrink to 112 1.9 ms, to 96 6 ms. The float32 kernel takes 16 ms
where this one takes 2.8.

Layouts: T frames, H rows, W columns; decoders give (T, H, W, 3), networks want (T, 3, H, W).
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reskd.common.video.integer_resize import resize_in_integers
from reskd.common.video.views import ViewParams

PREPROCESSING_VERSION: Final = 1
"""Part of a cache's identity. Any change of a bit that leaves this file is a new version."""

Three = tuple[float, float, float]

Resize = Callable[[Tensor, int, int], Tensor]
"""From uint8 (T, H, W, 3) to another height and width; all give the same bits."""


class Colours(NamedTuple):
    """What a network's input is normalised with: red, green and blue, black being 0 and white 1."""

    mean: Three
    std: Three

    def grey_levels(self) -> "Colours":
        """The same where white is 255, free of the roundings of 1/255."""
        return colours_of(*([round(255 * value, 9) for value in values] for values in self))


def colours_of(mean: Iterable[float], std: Iterable[float]) -> Colours:
    """Colours of any three and three numbers."""
    (a, b, c), (d, e, f) = mean, std
    return Colours(mean=(a, b, c), std=(d, e, f))


IMAGENET: Final = Colours(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Of ImageNet's images, with which most networks were trained."""


def apply(frames: Tensor, params: ViewParams, size: int) -> Tensor:
    """Make the teacher's frames of one view.

    Args:
        frames: uint8 (T, H, W, 3): the frames `params.frame_indices` names, in that order, at
            source size.
        params: The view.
        size: Side of the result in pixels.

    Returns:
        uint8 (T, 3, size, size), contiguous.

    Raises:
        ValueError: If the frames are of another type, shape or number than stated.

    Source: ResKD reference, the pipeline Resize, MultiScaleCrop or CenterCrop, Resize, Flip.
    """
    resized = resize_short_side(frames, params.frame_height, params.frame_width)
    return crop_and_resize(resized, params, size)


def resize_bilinear(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """The resize of this file, in the fastest way that the frames' device has.

    Args:
        frames_THWC: uint8 (T, H, W, 3).
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        uint8 (T, height, width, 3), any strides; `frames_THWC` itself at equal size.
    """
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    if frames_THWC.device.type != "cpu":
        return resize_in_integers(frames_THWC, height, width)
    # Pixels stay channels-last, which is how they come: no transposition, and one code path in
    # torch whatever strides a crop has.
    resized_TCHW = interpolate(
        frames_THWC.contiguous().permute(0, 3, 1, 2),
        size=(height, width),
        mode="bilinear",
        align_corners=False,
    )
    return resized_TCHW.permute(0, 2, 3, 1)


def resize_short_side(
    frames: Tensor, height: int, width: int, resize: Resize = resize_bilinear
) -> Tensor:
    """First half of `apply`, which all views of a video share: do it once per decoded frame.

    Args:
        frames: uint8 (T, H, W, 3), any T.
        height: `ViewParams.frame_height`.
        width: `ViewParams.frame_width`.
        resize: How.

    Returns:
        uint8 (T, height, width, 3); `frames` itself where it has that size already.

    Raises:
        ValueError: If the frames are of another type or shape than stated.
    """
    _require_frames(frames)
    return resize(frames, height, width)


def crop_and_resize(
    frames: Tensor, params: ViewParams, size: int, resize: Resize = resize_bilinear
) -> Tensor:
    """Second half of `apply`: the frames of one view, already at short-side size.

    Args:
        frames: uint8 (T, frame_height, frame_width, 3): the frames `params.frame_indices` names,
            in that order.
        params: The view.
        size: Side of the result in pixels.
        resize: How.

    Returns:
        uint8 (T, 3, size, size), contiguous.

    Raises:
        ValueError: If the frames are of another type, shape or number than stated.
    """
    _require_frames(frames)
    expected = (len(params.frame_indices), params.frame_height, params.frame_width)
    if frames.shape[:3] != expected:
        raise ValueError(
            f"the view needs {expected[0]} frames of {expected[1]}x{expected[2]} pixels, got "
            f"{frames.shape[0]} of {frames.shape[1]}x{frames.shape[2]}"
        )
    resized = resize_and_flip(crop(frames, params), params, size, resize)
    return resized.permute(0, 3, 1, 2).contiguous()


def crop(frames_THWC: Tensor, params: ViewParams) -> Tensor:
    """The part of frames at short-side size that a view shows, in the same memory."""
    rows = slice(params.top, params.top + params.height)
    cols = slice(params.left, params.left + params.width)
    return frames_THWC[:, rows, cols]


def resize_and_flip(
    cropped_THWC: Tensor, params: ViewParams, size: int, resize: Resize = resize_bilinear
) -> Tensor:
    """What follows the crop: (T, size, size, 3) uint8, any strides."""
    out = resize(cropped_THWC, size, size)
    return out.flip(2) if params.flip else out


def shrink(frames: Tensor, size: int) -> Tensor:
    """Make the student's frames from the teacher's.

    At half the side each pixel is the mean of four, (a + b + c + d + 2) >> 2, in integers and so
    the same on every device. It is what the reference does to normalised floats (bilinear to half
    size is the mean of four), up to the rounding.

    Args:
        frames: uint8 (..., 3, S, S), such as (T, 3, S, S) or (B, T, 3, S, S).
        size: Side of the result in pixels, at most S.

    Returns:
        uint8 (..., 3, size, size), contiguous.

    Raises:
        ValueError: If the frames are of another type or shape than stated, or too small.
    """
    if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-2] != frames.shape[-1]:
        raise ValueError(
            f"shrink needs square uint8 frames (..., 3, S, S), got {frames.dtype} "
            f"{tuple(frames.shape)}"
        )
    side = frames.shape[-1]
    if not 1 <= size <= side:
        raise ValueError(f"frames of side {side} cannot be shrunk to side {size}")
    if size == side:
        return frames.contiguous()
    if 2 * size == side:
        return _mean_of_four(frames).contiguous()
    flat = frames.reshape(-1, *frames.shape[-3:]).permute(0, 2, 3, 1)
    _require_frames(flat)
    small = resize_bilinear(flat, size, size).permute(0, 3, 1, 2).contiguous()
    return small.view(*frames.shape[:-2], size, size)


def normalize(frames: Tensor, colours: Colours) -> Tensor:
    """Bring frames to the scale a network was trained on: (x - mean) / std per channel.

    Args:
        frames: uint8 (..., 3, H, W), RGB, on any device.
        colours: The network's (`Recognizer.colours`).

    Returns:
        float32 of the same shape; about -2.1 to 2.6 for ImageNet's.

    Raises:
        ValueError: If the frames are of another type or shape.

    Source: ResKD reference, Normalize, there with ImageNet's in grey levels.
    """
    if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-3] != 3:
        raise ValueError(
            f"normalize needs uint8 frames (..., 3, H, W), got {frames.dtype} {tuple(frames.shape)}"
        )
    out = frames.to(torch.float32)
    # Python numbers instead of tensors: on a GPU a constant would be copied there, and waited for.
    for channel, (mean, std) in enumerate(zip(*colours.grey_levels(), strict=True)):
        out[..., channel, :, :].sub_(mean).mul_(1 / std)
    return out


def renormalize(clips: Tensor, colours: Colours) -> Tensor:
    """Clips that came normalised with ImageNet's colours, as a network with others takes them.

    Args:
        clips: float32 (..., 3, H, W).
        colours: The network's.

    Returns:
        float32 of the same shape; `clips` itself where the network's are ImageNet's.
    """
    if colours == IMAGENET:
        return clips
    numbers = (torch.tensor(values).view(3, 1, 1) for values in (*IMAGENET, *colours))
    mean, std, own_mean, own_std = numbers
    return (clips * std + (mean - own_mean)) / own_std


def _mean_of_four(frames: Tensor) -> Tensor:
    """Mean of each 2x2 block, halves rounded up; sides must be even."""
    wide = frames.to(torch.int16)
    rows = wide[..., 0::2, :] + wide[..., 1::2, :]
    blocks = rows[..., 0::2] + rows[..., 1::2]
    return blocks.add_(2).bitwise_right_shift_(2).to(torch.uint8)


def _require_frames(frames_THWC: Tensor) -> None:
    if (
        frames_THWC.dtype != torch.uint8
        or frames_THWC.ndim != 4
        or frames_THWC.shape[3] != 3
        or frames_THWC.numel() == 0
    ):
        raise ValueError(
            f"frames must be uint8 with T, H, W and 3 channels, got {frames_THWC.dtype} "
            f"{tuple(frames_THWC.shape)}"
        )
