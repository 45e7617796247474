"""How far two of a teacher's outputs for one clip are apart, array by array, before any encoding.

The measure everywhere is the relative L2 difference over a row, ||one - other|| / ||other||: of two
live runs, of a live run and a stored row (teacher_cache/verify/tolerance.py), of two precisions.
"""

from collections.abc import Iterable
from math import inf, isnan
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from reskd.common.distill.arrays import Row, TargetPlan, averaged_steps
from reskd.common.distill.grid_projection import mean_of_steps, project
from reskd.common.distill.teacher import Teacher, TeacherOutput

Numbers = NDArray[np.float64]
OutputPair = tuple[TeacherOutput, TeacherOutput]
"""Two outputs for one clip, B = 1; the first is the one the other is compared with."""

LARGEST_DIFFERENCE: Final = 8e-3
"""What storing feature maps as int8 may add (encoding.py). A teacher whose precision adds more to
an array of JUDGED is not cached."""
JUDGED: Final = frozenset({"logits", "features", "logit_map", "logit_map_values"})
"""Arrays that are the teacher's own numbers; the others follow from these, and may be small
differences of large ones."""

_LARGEST_STEP: Final = np.iinfo(np.int8).max


def output_pairs(one: Teacher, other: Teacher, clips_BT3HW: torch.Tensor) -> list[OutputPair]:
    """What two teachers say of each clip, which they see together."""
    outputs = one.predict(clips_BT3HW), other.predict(clips_BT3HW)
    return [
        (outputs[0].single(place), outputs[1].single(place)) for place in range(len(clips_BT3HW))
    ]


def live_differences(plan: TargetPlan, pairs: Iterable[OutputPair]) -> dict[str, float]:
    """How far two live outputs for one clip are apart: the largest over some clips, by array."""
    largest: dict[str, float] = {}
    for one, other in pairs:
        ids = _best_ids(plan, one)
        numbers, again = (live_numbers(plan, output, ids) for output in (one, other))
        for name, values in numbers.items():
            largest[name] = max(largest.get(name, 0.0), relative(again[name], values))
    return largest


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
        steps = averaged_steps(plan.arrays)
        maps_BTChw, residual_B = project(
            mean_of_steps(output.features_BTChw, steps), plan.feature_grid
        )
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


def _best_ids(plan: TargetPlan, output: TeacherOutput) -> Row | None:
    kept = [array.row_shape[-1] for array in plan.arrays if array.name == "logit_map_ids"]
    if not kept or output.logit_map_BThwK is None:
        return None
    ids: Row = output.logit_map_BThwK[0].topk(kept[0], dim=-1).indices.cpu().numpy()
    return ids
