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

`encode_error` sums this up over a row. A number too large for its type is a DataError, never an
infinity in the store. The gradient of feature_mse is linear in the target, so encoding moves it by
the same amount whatever the student says: 2e-4 of it for float16 and 8e-3 for int8 where both maps
have the same statistics, a larger share as the student comes near.
"""

from collections.abc import Mapping
from math import inf, sqrt
from typing import Final

import numpy as np
import torch
from torch import Tensor

from reskd.common.distill.arrays import ArraySpec, Row, TargetPlan
from reskd.common.distill.grid_projection import project
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

_STEPS: Final = 127  # of int8 to either side; -128 is not used, so that the code is symmetric
_HALF_STEP: Final = 2.0**-11  # of a normal float16, relative
_HALF_SMALLEST: Final = 2.0**-25  # half the distance of subnormal float16 numbers, absolute


def encode(plan: TargetPlan, output: TeacherOutput | None, clips_VT3HW: Tensor) -> dict[str, Row]:
    """What the store keeps of the views of one video, apart from their parameters.

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
    planned = {array.name: array for array in plan.arrays}
    rows: dict[str, Row] = {}
    if planned.keys() - {"frames", "views"}:
        assert output is not None, f"the plan needs the teacher's output for {list(planned)}"
        if "logits" in planned:
            rows["logits"] = _as_float16(output.logits_BK, "logits")
        if planned.keys() & {"features", "feature_scale", "feature_residual"}:
            rows |= _encode_features(plan, planned, output.features_BTChw)
        if any(name.startswith("logit_map") for name in planned):
            assert output.logit_map_BThwK is not None, "make the Teacher with logit_map=True"
            rows |= _encode_logit_map(planned, output.logit_map_BThwK)
    if "frames" in planned:
        rows["frames"] = shrink(clips_VT3HW, plan.student_size).numpy()
    return {name: rows[name] for name in planned if name != "views"}


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


def _encode_features(
    plan: TargetPlan, planned: Mapping[str, ArraySpec], features_BTChw: Tensor
) -> dict[str, Row]:
    maps, residual_B = project(features_BTChw, plan.feature_grid)
    rows: dict[str, Row] = {}
    if "features" in planned and planned["features"].dtype == "float16":
        rows["features"] = _as_float16(maps, "features")
    elif planned.keys() & {"features", "feature_scale"}:
        steps, scale_BC = _quantize(maps)
        rows["features"] = steps.cpu().numpy()
        rows["feature_scale"] = scale_BC.cpu().numpy()
    rows["feature_residual"] = residual_B.cpu().numpy()
    return rows


def _quantize(maps_BTChw: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 steps (B, T, C, h, w) and their float16 size (B, C), one per clip and channel.

    The size is the smallest float16 of which 127 reach the channel's largest number, so that none
    is cut off. A channel of zeros has size 0.
    """
    largest_BC = maps_BTChw.abs().amax(dim=(1, 3, 4))
    scale_BC = (largest_BC / _STEPS).to(torch.float16)
    # 127 times a float16 is exact in float32. Counting up the bits gives the next float16.
    above_BC = (scale_BC.view(torch.int16) + 1).view(torch.float16)
    scale_BC = torch.where(scale_BC.float() * _STEPS < largest_BC, above_BC, scale_BC)
    _require_finite(scale_BC, maps_BTChw, "features", "int8 with a float16 scale ends at 8.3e6")
    # float64: a quotient rounded to float32 could fall on the wrong side of a half.
    size = scale_BC.double().masked_fill(scale_BC == 0, 1)[:, None, :, None, None]
    return (maps_BTChw.double() / size).round().to(torch.int8), scale_BC


def _encode_logit_map(planned: Mapping[str, ArraySpec], map_BThwK: Tensor) -> dict[str, Row]:
    if "logit_map" in planned:
        return {"logit_map": _as_float16(map_BThwK, "logit map")}
    _require_finite(map_BThwK, map_BThwK, "logit map", "scores are finite numbers")
    missing = {"logit_map_ids", "logit_map_values", "logit_map_rest"} - planned.keys()
    assert not missing, f"a top-k map is planned without {missing}"
    k = planned["logit_map_values"].row_shape[-1]
    values, ids = map_BThwK.topk(k, dim=-1)
    temperature = planned["logit_map_rest"].attributes["temperature"]
    others = map_BThwK.scatter(-1, ids, -inf) / temperature
    return {
        "logit_map_ids": ids.cpu().numpy().astype(np.uint16),
        "logit_map_values": _as_float16(values, "logit map"),
        "logit_map_rest": _as_float16(others.logsumexp(dim=-1), "logit map"),
    }


def _as_float16(values: Tensor, name: str) -> Row:
    small = values.to(torch.float16)
    _require_finite(small, values, name, "float16 ends at 65504")
    array: Row = small.cpu().numpy()
    return array


def _require_finite(stored: Tensor, values: Tensor, name: str, limit: str) -> None:
    if not torch.isfinite(stored).all():
        hint = "" if torch.isfinite(values).all() else f" {OVERFLOW_HINT}"
        raise DataError(
            f"The teacher's {name} reach {values.abs().max().item():.3g}; {limit}. "
            f"Is the checkpoint a trained one, and are its inputs normalised as it expects?{hint}"
        )
