"""Weights of image networks as a start for video networks.

A convolution over frames gets the image kernel at every step of time, divided by their number, so a
clip of equal frames is answered as the frame was. A window of several frames gets the image's
position biases for every distance in time.

Source: ResKD reference, resnet3d.py (inflation of 2D weights) and swin_transformer.py.
"""

from collections.abc import Mapping
from math import isqrt

from torch import Tensor
from torch.nn.functional import interpolate

from common.checkpoint_import.swin_names import TABLE_SUFFIX, WINDOW


def inflate(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Turn an image network's tensors into a video network's, where their shapes ask for it.

    Args:
        tensors: By the video network's names.
        wanted: Shapes of the video network by the same names.

    Returns:
        All tensors; those that no rule fits are passed on as they are.
    """
    return {name: _inflate_one(name, tensor, wanted) for name, tensor in tensors.items()}


def _inflate_one(name: str, tensor: Tensor, wanted: Mapping[str, tuple[int, ...]]) -> Tensor:
    shape = wanted.get(name, tuple(tensor.shape))
    if name.endswith(TABLE_SUFFIX) and tensor.ndim == 2 and tuple(tensor.shape) != shape:
        return inflate_bias_table(tensor, WINDOW)
    if tensor.ndim == 4 and len(shape) == 5:
        return inflate_kernel(tensor, shape[2])
    return tensor


def inflate_kernel(weight: Tensor, steps: int) -> Tensor:
    """(out, in, h, w) repeated `steps` times in time and divided by them: (out, in, t, h, w)."""
    return weight.unsqueeze(2).repeat(1, 1, steps, 1, 1) / steps


def inflate_bias_table(table: Tensor, window: tuple[int, int, int]) -> Tensor:
    """Position biases of an image window, for a window of several frames.

    Args:
        table: ((2s - 1)^2, heads) of a square window of side s; resized bicubically where s is not
            the wanted window's.
        window: Frames, rows, columns of the wanted window.

    Returns:
        ((2 frames - 1)(2 rows - 1)(2 columns - 1), heads).
    """
    frames, rows, columns = window
    side, heads = isqrt(table.shape[0]), table.shape[1]
    size = (2 * rows - 1, 2 * columns - 1)
    if table.shape[0] == side**2 and (side, side) != size:
        image = table.T.reshape(1, heads, side, side)
        resized = interpolate(image, size=size, mode="bicubic", align_corners=False)
        table = resized.reshape(heads, -1).T
    return table.repeat(2 * frames - 1, 1)
