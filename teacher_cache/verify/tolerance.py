"""One stored row against what a teacher says now, array by array; no files, no networks.

Floats are judged by their relative L2 difference over the row, ||stored - live|| / ||live||, where
live is the teacher's output before it is encoded. Three arrays need a word more:

features as int8: compared are the numbers they stand for, since noise may move a step by one.
logit_map_values and logit_map_rest: what live says of the stored classes, and of all others.
logit_map_ids: live scores of the stored classes against the best live scores there, so that classes
of nearly equal score may change places.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf, isnan
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.encoding import encode, encode_error
from reskd.common.distill.grid_projection import project
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import TeacherOutput

Numbers = NDArray[np.float64]

FACTOR: Final = 2.0
"""Limit over the larger of live difference and encode error: a stored row may differ by both."""
_LARGEST_STEP: Final = np.iinfo(np.int8).max


def differences(
    plan: TargetPlan, rows: Mapping[str, Row], output: TeacherOutput
) -> dict[str, float]:
    """How far each stored array of a row is from a live output for the same view.

    Args:
        plan: All arrays of the cache.
        rows: Arrays of the row, each of its row_shape; those that need no teacher are passed over.
        output: For this one clip, B = 1.

    Returns:
        Relative L2 difference by array; infinity where live says zero and the row does not, or
        where the row names classes that do not exist.
    """
    ids = rows.get("logit_map_ids")
    unknown = False
    if ids is not None and output.logit_map_BThwK is not None:
        last = output.logit_map_BThwK.shape[-1] - 1
        unknown, ids = bool(ids.max() > last), ids.clip(0, last)
    live = live_numbers(plan, output, ids)
    found = {
        name: relative(_stored_numbers(name, rows, live), live[name])
        for name in rows
        if name not in FROM_VIDEO_ALONE
    }
    return found | {"logit_map_ids": inf} if unknown else found


def live_differences(
    plan: TargetPlan, pairs: Iterable[tuple[TeacherOutput, TeacherOutput]]
) -> dict[str, float]:
    """How far two live outputs for one clip are apart: the largest over some clips, by array."""
    largest: dict[str, float] = {}
    for one, other in pairs:
        ids = _best_ids(plan, one)
        numbers, again = (live_numbers(plan, output, ids) for output in (one, other))
        for name, values in numbers.items():
            largest[name] = max(largest.get(name, 0.0), relative(again[name], values))
    return largest


def encode_errors(plan: TargetPlan, output: TeacherOutput) -> dict[str, float]:
    """What encoding a live output may change in each array, relative, see encoding.py.

    Taken from the live output, not from the stored row: a wrong row must not widen its own limit.

    Args:
        plan: All arrays of the cache.
        output: For one clip, B = 1.
    """
    asked = tuple(array for array in plan.arrays if array.name not in FROM_VIDEO_ALONE)
    encoded = encode(replace(plan, arrays=asked), output, torch.empty(0))
    rows = {name: row[0] for name, row in encoded.items()}
    # Kept classes are judged by their scores, so they share the scores' bound.
    judged_as = {"logit_map_ids": "logit_map_values"}
    return {name: encode_error(judged_as.get(name, name), rows) for name in rows}


def live_numbers(
    plan: TargetPlan, output: TeacherOutput, ids_Thwk: Row | None
) -> dict[str, Numbers]:
    """Every float array of a plan as an output has it, before any encoding.

    Args:
        plan: The arrays.
        output: For one clip, B = 1.
        ids_Thwk: Classes that a top-k map keeps; None if the plan has none.
    """
    names = {array.name for array in plan.arrays}
    numbers: dict[str, torch.Tensor] = {}
    if "logits" in names:
        numbers["logits"] = output.logits_BK[0]
    if "features" in names:
        maps_BTChw, residual_B = project(output.features_BTChw, plan.feature_grid)
        numbers["features"] = maps_BTChw[0]
        numbers["feature_residual"] = residual_B[0]
        numbers["feature_scale"] = maps_BTChw[0].abs().amax(dim=(0, 2, 3)) / _LARGEST_STEP
    if output.logit_map_BThwK is not None:
        scores = output.logit_map_BThwK[0].double()
        numbers["logit_map"] = scores
        if ids_Thwk is not None:
            rest = next(array for array in plan.arrays if array.name == "logit_map_rest")
            ids = torch.from_numpy(ids_Thwk.astype(np.int64)).to(scores.device)
            others = scores.scatter(-1, ids, -inf) / rest.attributes["temperature"]
            numbers["logit_map_values"] = scores.gather(-1, ids)
            numbers["logit_map_rest"] = others.logsumexp(dim=-1)
            numbers["logit_map_ids"] = scores.topk(ids.shape[-1], dim=-1).values
    return {
        name: values.double().cpu().numpy() for name, values in numbers.items() if name in names
    }


def relative(numbers: Numbers, live: Numbers) -> float:
    """||numbers - live|| / ||live||; 0 where both are zero, infinity where only live is, or NaN."""
    difference, norm = float(np.linalg.norm(numbers - live)), float(np.linalg.norm(live))
    if isnan(difference):
        return inf
    if not norm:
        return inf if difference else 0.0
    return difference / norm


def _stored_numbers(name: str, rows: Mapping[str, Row], live: Mapping[str, Numbers]) -> Numbers:
    if name == "logit_map_ids":
        return live["logit_map_values"]
    numbers: Numbers = np.asarray(rows[name], np.float64)
    if name == "features" and rows[name].dtype == np.int8:
        return numbers * rows["feature_scale"].astype(np.float64)[:, np.newaxis, np.newaxis]
    return numbers


def _best_ids(plan: TargetPlan, output: TeacherOutput) -> Row | None:
    kept = [array.row_shape[-1] for array in plan.arrays if array.name == "logit_map_ids"]
    if not kept or output.logit_map_BThwK is None:
        return None
    ids: Row = output.logit_map_BThwK[0].topk(kept[0], dim=-1).indices.cpu().numpy()
    return ids
