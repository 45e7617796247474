"""Stored rows against made-up live outputs, where the right difference is known."""

from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.common.distill.differences import live_differences, relative
from reskd.common.distill.teacher import TeacherOutput
from reskd.teacher_cache.verify.tolerance import differences

TOP_2 = TargetPlan(
    arrays=(
        ArraySpec(name="logit_map_ids", row_shape=(1, 1, 1, 2), dtype="uint16"),
        ArraySpec(name="logit_map_values", row_shape=(1, 1, 1, 2), dtype="float16"),
        ArraySpec(
            name="logit_map_rest",
            row_shape=(1, 1, 1),
            dtype="float16",
            attributes={"temperature": 1.0},
        ),
    ),
    teacher_grid=(1, 1),
    feature_grid=(1, 1),
    student_size=1,
)


def _output(*scores: float) -> TeacherOutput:
    return TeacherOutput(
        torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1), torch.tensor(scores).view(1, 1, 1, 1, -1)
    )


def _top_2(
    ids: tuple[int, int], values: tuple[float, float], rest: float
) -> dict[str, NDArray[Any]]:
    return {
        "logit_map_ids": np.array(ids, np.uint16).reshape(1, 1, 1, 2),
        "logit_map_values": np.array(values, np.float16).reshape(1, 1, 1, 2),
        "logit_map_rest": np.array(rest, np.float16).reshape(1, 1, 1),
    }


def test_equal_scores_may_change_places_and_others_may_not() -> None:
    live = _output(2.0, 1.0, 1.0, -1.0)
    rest = float(np.logaddexp(1, -1))
    for ids in ((0, 1), (0, 2)):
        found = differences(TOP_2, _top_2(ids, (2, 1), rest), live)
        assert found["logit_map_ids"] == found["logit_map_values"] == 0
        assert found["logit_map_rest"] < 5e-4
    wrong = differences(TOP_2, _top_2((0, 3), (2, 1), rest), live)
    assert wrong["logit_map_ids"] == pytest.approx(2 / 5**0.5)
    unknown = differences(TOP_2, _top_2((0, 9), (2, 1), rest), live)
    assert unknown["logit_map_ids"] == float("inf")


def test_live_difference_is_the_largest_over_the_clips() -> None:
    pairs = [
        (_output(2.0, 1.0, 0.0), _output(2.0, 1.0, 0.0)),
        (_output(4.0, 3.0, 0.0), _output(4.5, 3.0, 0.0)),
    ]
    assert live_differences(TOP_2, pairs)["logit_map_values"] == pytest.approx(0.1)


def test_relative_difference_of_zeros_and_of_what_is_no_number() -> None:
    zero, one = np.zeros(3), np.array([1.0, 0.0, 0.0])
    assert relative(zero, zero) == 0
    assert relative(one, zero) == inf
    assert relative(zero, one) == 1
    assert relative(np.array([nan, 0.0, 0.0]), one) == inf
