"""One stored row against what a teacher says now, array by array; no files, no networks.

Floats are judged by their relative L2 difference over the row, ||stored - live|| / ||live||, where
live is the teacher's output before it is encoded. Three arrays need a word more:

features as int8: compared are the numbers they stand for, since noise may move a step by one.
logit_map_values and logit_map_rest: what live says of the stored classes, and of all others.
logit_map_ids: live scores of the stored classes against the best live scores there, so that classes
of nearly equal score may change places.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Final

import numpy as np
import torch

from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.differences import Numbers, live_numbers, relative
from reskd.common.distill.encoding import encode, encode_error
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import TeacherOutput

FACTOR: Final = 2.0
"""Limit over the largest of what makes a stored row differ, for it may differ by all of it."""


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


def _stored_numbers(name: str, rows: Mapping[str, Row], live: Mapping[str, Numbers]) -> Numbers:
    if name == "logit_map_ids":
        return live["logit_map_values"]
    numbers: Numbers = np.asarray(rows[name], np.float64)
    if name == "features" and rows[name].dtype == np.int8:
        return numbers * rows["feature_scale"].astype(np.float64)[:, np.newaxis, np.newaxis]
    return numbers
