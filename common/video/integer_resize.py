"""Preprocessing v1's resize in integer operations of tensors: the same bits on every device.

Bilinear, without antialias, half-pixel centres; columns first, then rows. With two whole numbers
as weights a new pixel is

    (first * weight + second * other + 2**(bits - 1)) >> bits

where the weights are shares of 2**bits, halves rounded up, and bits is 15, or 14 where an axis has
a pixel that is taken over whole (its weight 2**15 would not fit the int16 of torch's kernel).

Why nothing here can differ between devices, or from torch's uint8 kernel on the CPU:

- Pixels are combined in int32, at most (2**15 + 1) * 255 + 2**14 < 2**23.02: no overflow. As both
  weights may have been rounded up, their sum is at most 2**bits + 1, which adds at most 255 to
  255 * 2**bits + 2**(bits - 1), less than 256 * 2**bits: no result passes 255, none needs clamping.
- Weights are quotients with the denominator 2 * new, worked out without rounding. The kernel has
  them in float64, wrong by less than 1e-6 for axes up to 2**14. Below that no share of 2**bits is
  an exact half, and each misses the next one by 1 / (2 * new) at least: both round alike.
- A centre just short of a whole number, as float64 may have it, takes the pixel after by the weight
  2**bits, and the one before by 0: the same result.
"""

from functools import cache
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FRAMES_AT_ONCE: Final = 32
"""Intermediate results take 13 bytes a value: of more frames a device might not have room."""


class Taps(NamedTuple):
    """The two old pixels that make each new one along an axis."""

    first: Tensor
    """int64 (new,): places of the one."""
    second: Tensor
    """int64 (new,): places of the other, the same at the far edge."""
    weight: Tensor
    """int32 (new,): of the first, in 2**-bits."""
    other: Tensor
    """int32 (new,): of the second."""
    bits: int


def resize_in_integers(frames_THWC: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of uint8 frames.

    Args:
        frames_THWC: uint8 (T, H, W, C) on any device, any strides.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        uint8 (T, height, width, C) on the same device; `frames_THWC` itself at equal size.
    """
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    parts = [
        _resize_axis(_resize_axis(part, width, axis=2), height, axis=1)
        for part in frames_THWC.split(FRAMES_AT_ONCE)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _resize_axis(frames_THWC: Tensor, size: int, *, axis: int) -> Tensor:
    old = frames_THWC.shape[axis]
    if old == size:
        return frames_THWC
    taps = _taps(old, size, frames_THWC.device)
    along = [size if axis == place else 1 for place in range(4)]
    # uint8 times int32 is int32.
    first = frames_THWC.index_select(axis, taps.first) * taps.weight.view(along)
    second = frames_THWC.index_select(axis, taps.second) * taps.other.view(along)
    sums = first.add_(second).add_(1 << (taps.bits - 1))
    return sums.bitwise_right_shift_(taps.bits).to(torch.uint8)


@cache  # a few kB for each pair of sizes, copied to the device, and waited for, only once
def _taps(old: int, new: int, device: torch.device) -> Taps:
    first, rest = np.divmod(np.maximum((2 * np.arange(new) + 1) * old - new, 0), 2 * new)
    first = np.minimum(first, old - 1)
    second = np.minimum(first + 1, old - 1)
    whole = 2 * new
    largest = np.where(second == first, whole, np.maximum(rest, whole - rest)).max()
    bits = 14 if _share(largest, new, 15) >= 2**15 else 15
    weight, other = (
        torch.from_numpy(_share(part, new, bits)).to(device, torch.int32)
        for part in (whole - rest, rest)
    )
    return Taps(
        first=torch.from_numpy(first).to(device),
        second=torch.from_numpy(second).to(device),
        weight=weight,
        other=other,
        bits=bits,
    )


def _share(part: NDArray[np.int64], new: int, bits: int) -> NDArray[np.int64]:
    """`part` of 2 * new as a share of 2**bits, halves rounded up."""
    share: NDArray[np.int64] = (part * 2**bits + new) // (2 * new)
    return share
