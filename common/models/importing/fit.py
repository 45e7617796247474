"""From renamed tensors to a model's state: inflated over time where the model has it, then checked.

A convolution over frames gets the image kernel at every step of time, divided by their number, so a
clip of equal frames gives what the frame gave. A window of several frames gets the image's position
biases for every distance in time.

The tensors must be exactly those the model has; every difference is reported, not just the first.
Two things are put right, since they change no value a network computes with: numbers of half
precision are widened (float32 holds each of them exactly), and the count of batches that BatchNorm
has seen, which files older than the count lack everywhere, is 0.

Source: ResKD reference, resnet3d.py (inflation of 2D weights) and swin_transformer.py.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reskd.common.console import in_lines
from reskd.common.models.importing.names import INDEX_SUFFIX, TABLE_SUFFIX
from reskd.common.models.slowonly import inflate_kernel
from reskd.common.models.swin3d import WINDOW

_COUNT_SUFFIX = "num_batches_tracked"
_HALVES = (torch.float16, torch.bfloat16)


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


def relative_position_index(window: tuple[int, int, int]) -> Tensor:
    """Row of the bias table for every pair of places in a window.

    Args:
        window: Frames, rows, columns.

    Returns:
        (N, N) int64 with N places, frames varying slowest.
    """
    ranges = [torch.arange(side) for side in window]
    places_N3 = torch.stack(torch.meshgrid(*ranges, indexing="ij"), dim=-1).flatten(0, 2)
    _, rows, columns = window
    steps_NN3 = places_N3[:, None] - places_N3[None] + torch.tensor(window) - 1
    frame, row, column = steps_NN3.unbind(-1)
    return (frame * (2 * rows - 1) + row) * (2 * columns - 1) + column


@dataclass(kw_only=True, slots=True)
class Misfits:
    """Differences by kind; each names one tensor."""

    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    other_shape: list[str] = field(default_factory=list)
    other_type: list[str] = field(default_factory=list)
    other_index: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    def text(self) -> str:
        """All of them, a line per kind; empty if there are none."""
        kinds = (
            ("missing", self.missing),
            ("unknown to the model", self.extra),
            ("of another shape", self.other_shape),
            ("of another number type", self.other_type),
            ("positions numbered in another way", self.other_index),
            ("with values that are not finite", self.not_finite),
        )
        return in_lines(
            *(f"  {kind} ({len(names)}): {', '.join(names)}" for kind, names in kinds if names)
        )


def fit(
    tensors: Mapping[str, Tensor],
    origin: Mapping[str, str],
    target: Mapping[str, Tensor],
    *,
    unknown: Iterable[str] = (),
) -> tuple[dict[str, Tensor], Misfits]:
    """Bring tensors to a model's names, or say in full why they are not its.

    Args:
        tensors: By the model's names.
        origin: Name -> key in the file, for messages.
        target: The model's own state, as shapes and types (meta tensors will do).
        unknown: Keys of the file that have no name here.

    Returns:
        The state to load, whole if there are no misfits, and the misfits.
    """
    misfits = Misfits(extra=list(unknown))
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = origin.get(name, name)
        if name.endswith(INDEX_SUFFIX):
            if not torch.equal(tensor.long(), relative_position_index(WINDOW)):
                misfits.other_index.append(key)
        elif name not in target:
            misfits.extra.append(key)
        else:
            state[name] = _checked(key, tensor, target[name], misfits)
    _complete(state, target, misfits)
    return state, misfits


def _inflate_one(name: str, tensor: Tensor, wanted: Mapping[str, tuple[int, ...]]) -> Tensor:
    shape = wanted.get(name, tuple(tensor.shape))
    if name.endswith(TABLE_SUFFIX) and tensor.ndim == 2 and tuple(tensor.shape) != shape:
        return inflate_bias_table(tensor, WINDOW)
    if tensor.ndim == 4 and len(shape) == 5:
        return inflate_kernel(tensor, shape[2])
    return tensor


def _checked(key: str, tensor: Tensor, wanted: Tensor, misfits: Misfits) -> Tensor:
    if tensor.shape != wanted.shape:
        misfits.other_shape.append(f"{key} {tuple(tensor.shape)} instead of {tuple(wanted.shape)}")
        return tensor  # whose values nobody needs, and which may be of any length
    if tensor.dtype in _HALVES and wanted.dtype == torch.float32:
        tensor = tensor.float()
    if tensor.dtype != wanted.dtype:
        misfits.other_type.append(f"{key} {tensor.dtype} instead of {wanted.dtype}")
    if not torch.isfinite(tensor).all():
        misfits.not_finite.append(key)
    return tensor


def _complete(state: dict[str, Tensor], target: Mapping[str, Tensor], misfits: Misfits) -> None:
    """Add what follows from the model alone; the rest of what is absent is missing."""
    counted = any(name.endswith(_COUNT_SUFFIX) for name in state)
    for name in target:
        if name in state:
            continue
        if name.endswith(INDEX_SUFFIX):
            state[name] = relative_position_index(WINDOW)
        elif name.endswith(_COUNT_SUFFIX) and not counted:
            state[name] = torch.zeros((), dtype=target[name].dtype)
        else:
            misfits.missing.append(name)
