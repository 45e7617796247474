"""From the teacher's outputs to the rows of a store, and back.

How far a stored number may be from the one that was encoded (u = 2^-11, half a step of float16):

| array | error of one number |
|---|---|
| logits, logit_map, logit_map_values, logit_map_rest | u of its size, at least 2^-25 |
| features, float16 | the same |
| features, int8 | half its channel's scale |
| feature_scale | never too small; too large by 2 u of its size, at least 2^-24 |
| feature_residual | see RESIDUAL_ERROR |
| logit_map_ids, frames, views | none |

`device_encoding` makes the numbers where the teacher runs and never waits for them; `to_rows` is
what is left for the host once they have come. `encode` does both at once.

`encode_error` sums this up over a row. A number too large for its type is a DataError, never an
infinity in the store. The gradient of feature_mse is linear in the target, so encoding moves it by
the same amount whatever the student says: 2e-4 of it for float16 and 8e-3 for int8 where both maps
have the same statistics, a larger share as the student comes near.
"""

from collections.abc import Mapping
from math import inf, isfinite, isnan, sqrt
from typing import Final

import numpy as np
import torch
from torch import Tensor

from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.device_encoding import Check, encode_on_device
from reskd.common.distill.teacher import TeacherOutput
from reskd.common.errors import DataError
from reskd.common.video.preprocess import shrink

RESIDUAL_ERROR: Final = 1e-3
"""Relative error of feature_residual. It is what float32 leaves of a difference between the map and
its projection, so this holds while it is more than a millionth of the map's mean square; below that
it no longer moves the loss."""

OVERFLOW_HINT: Final = (
    "If teacher.precision is float16, the network itself may have left what float16 holds, which "
    "ends at 65504: set it to tf32 or float32, for another cache."
)
"""What to do where a teacher's outputs are infinite or no numbers at all."""

_HALF_STEP: Final = 2.0**-11  # of a normal float16, relative
_HALF_SMALLEST: Final = 2.0**-25  # half the distance of subnormal float16 numbers, absolute


def encode(plan: TargetPlan, output: TeacherOutput | None, clips_VT3HW: Tensor) -> dict[str, Row]:
    """What the store keeps of some views, apart from their parameters.

    Only planned arrays are computed, so a plan cut down to some arrays costs no more than these.
    The three arrays of a top-k map are planned together or not at all.

    Args:
        plan: Which arrays.
        output: The teacher's, for these views; None if no planned array needs it.
        clips_VT3HW: The views as the teacher saw them, uint8 on the CPU.

    Returns:
        One array (V, *row_shape) per planned name, in the plan's order, without `views`.

    Raises:
        DataError: If the teacher said something that the number type on disk cannot hold.
    """
    encoded = encode_on_device(plan, output)
    arrays = {name: array.cpu() for name, array in encoded.arrays.items()}
    rows = to_rows(arrays, encoded.reach.cpu(), encoded.checks)
    names = [array.name for array in plan.arrays]
    if "frames" in names:
        rows["frames"] = shrink(clips_VT3HW, plan.student_size).numpy()
    return {name: rows[name] for name in names if name != "views"}


def to_rows(
    arrays: Mapping[str, Tensor], reach: Tensor, checks: tuple[Check, ...]
) -> dict[str, Row]:
    """The host's half: what `encode_on_device` made, now on the CPU, as the store takes it.

    Args:
        arrays: `EncodedBatch.arrays`; the rows share their memory where the type allows it.
        reach: `EncodedBatch.reach`.
        checks: `EncodedBatch.checks`.

    Raises:
        DataError: If the teacher said something that the number type on disk cannot hold.
    """
    for check, largest in zip(checks, reach.tolist(), strict=True):
        if largest or isnan(largest):
            hint = "" if isfinite(largest) else f" {OVERFLOW_HINT}"
            raise DataError(
                f"The teacher's {check.name} reach {largest:.3g}; {check.limit}. Is the checkpoint "
                f"a trained one, and are its inputs normalised as it expects?{hint}"
            )
    rows: dict[str, Row] = {name: array.numpy() for name, array in arrays.items()}
    if "logit_map_ids" in rows:
        rows["logit_map_ids"] = rows["logit_map_ids"].astype(np.uint16)
    return rows


def decode_features(targets: Mapping[str, Tensor]) -> Tensor:
    """Stored feature maps as the numbers they stand for, on the device they are on.

    Called after a batch was moved to the student's device, so that int8 maps cross as int8.

    Args:
        targets: `features`, (B, T, C, h, w), and for int8 `feature_scale`, (B, C).

    Returns:
        (B, T, C, h, w) float32: exactly number times scale, or the float16 number itself.

    Raises:
        ValueError: If int8 maps come without their scale.
    """
    features_BTChw = targets["features"]
    if features_BTChw.dtype != torch.int8:
        return features_BTChw.float()
    if "feature_scale" not in targets:
        raise ValueError("int8 features need feature_scale beside them; read both from the cache")
    scale_BC = targets["feature_scale"].float()
    return features_BTChw.float() * scale_BC[:, None, :, None, None]


def encode_error(name: str, rows: Mapping[str, Row]) -> float:
    """How far one stored row may be from what was encoded: a bound of ||stored - exact||/||exact||.

    Args:
        name: Array.
        rows: Arrays of one row, each of its row_shape; int8 features need `feature_scale` too.

    Returns:
        Bound of the relative L2 error from encoding alone, 0 for integers. For a row of zeros it is
        0 as well, so that a check demands zeros again; numbers below 2^-25 are what that leaves
        out. Infinity where no number of the row stands out of its rounding. Classes of equal score
        may still change places in `logit_map_ids` when another device repeats them.
    """
    row = rows[name]
    if name == "feature_residual":
        return RESIDUAL_ERROR
    if name == "features" and row.dtype == np.int8:
        scale_C = rows["feature_scale"].astype(np.float64)
        stored = row.astype(np.float64) * scale_C[:, np.newaxis, np.newaxis]
        cells = row.size // scale_C.size
        error = sqrt(cells) * float(np.linalg.norm(scale_C / 2))
    elif row.dtype == np.float16:
        stored = row.astype(np.float64)
        error = _HALF_STEP * float(np.linalg.norm(stored)) + _HALF_SMALLEST * sqrt(row.size)
        if name == "feature_scale":
            error *= 2  # rounded up, not to the nearest
    else:
        return 0.0
    norm = float(np.linalg.norm(stored))
    if not norm:
        return 0.0
    # The exact norm is at least the stored one less the error.
    return error / (norm - error) if error < norm else inf
