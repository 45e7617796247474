"""What a store keeps: planned from shapes alone, then filled exactly as planned."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import load_experiment, parse_experiment
from common.distill.arrays import TargetPlan
from common.distill.grid_projection import project
from common.distill.targets import encode, plan_targets
from common.errors import DataError, ExperimentError
from common.models.recognizer import ClipOutput
from common.specs import Experiment
from common.video.view_ops import shrink


def experiment(**changes: Any) -> Experiment:
    """ResNet-50 at 224 px for ResNet-50 at 112 px, 8 frames; sections may be replaced."""
    tree = {
        "name": "r50",
        "data": {"index": "videos.jsonl"},
        "clip": {"num_clips": 8},
        "views": {"count": 3},
        "teacher": {"checkpoint": "teacher"},
        "student": {"training": {"epochs": 5}},
        **changes,
    }
    return parse_experiment(tree, source="test")


def tiny(**changes: Any) -> Experiment:
    model = {"backbone": "test_resnet"}
    return experiment(
        **{
            "clip": {"num_clips": 2},
            "views": {"count": 3, "size": 96},
            "teacher": {"checkpoint": "teacher", "model": model},
            "student": {"training": {"epochs": 5}, "model": model, "size": 48},
            **changes,
        }
    )


def table(plan: TargetPlan) -> dict[str, tuple[tuple[int, ...], str]]:
    return {array.name: (array.row_shape, array.dtype) for array in plan.arrays}


def answer_for(
    num_views: int, plan: TargetPlan, num_classes: int, channels: int
) -> tuple[ClipOutput, Tensor]:
    """A teacher's answer to views of two 96 px frames, and the views."""
    features = torch.randn(num_views, 2, channels, *plan.teacher_grid).relu()
    clips = torch.randint(0, 256, (num_views, 2, 3, 96, 96), dtype=torch.uint8)
    return ClipOutput(features, torch.randn(num_views, num_classes)), clips


def test_plan_for_the_demo_has_these_arrays() -> None:
    plan = plan_targets(load_experiment("demo"), num_classes=6)
    assert table(plan) == {
        "logits": ((6,), "float16"),
        "features": ((4, 96, 2, 2), "float16"),
        "feature_residual": ((), "float32"),
        "frames": ((4, 3, 24, 24), "uint8"),
        "views": ((12,), "int32"),
    }
    assert (plan.teacher_grid, plan.feature_grid, plan.student_size) == ((4, 4), (2, 2), 24)


def test_plan_for_resnet50_has_the_bytes_that_the_design_promises() -> None:
    plan = plan_targets(experiment(), num_classes=200)
    row_bytes = {array.name: array.row_bytes for array in plan.arrays}
    assert row_bytes == {
        "logits": 400,
        "features": 8 * 2048 * 16 * 2,
        "feature_residual": 4,
        "frames": 8 * 3 * 112 * 112,
        "views": 64,
    }
    assert row_bytes["features"] == 524_288
    assert (plan.teacher_grid, plan.feature_grid) == ((7, 7), (4, 4))


def test_plan_on_teacher_grid_keeps_the_map_and_needs_no_residual() -> None:
    plan = plan_targets(experiment(targets={"features": {"grid": "teacher"}}), num_classes=200)
    assert table(plan)["features"] == ((8, 2048, 7, 7), "float16")
    assert "feature_residual" not in table(plan)
    assert plan.feature_grid == plan.teacher_grid == (7, 7)


@pytest.mark.parametrize(
    ("target", "gone"),
    [
        ("logits", {"logits"}),
        ("features", {"features", "feature_residual"}),
        ("frames", {"frames"}),
    ],
)
def test_target_left_out_by_null_is_neither_planned_nor_written(
    target: str, gone: set[str]
) -> None:
    student = {
        "training": {"epochs": 5},
        "model": {"backbone": "test_resnet"},
        "size": 48,
        "losses": {"feature_mse": 0},
    }
    everything = set(table(plan_targets(tiny(), num_classes=5)))
    plan = plan_targets(tiny(targets={target: None}, student=student), num_classes=5)
    assert everything - set(table(plan)) == gone
    rows = encode(plan, *answer_for(1, plan, 5, 96))
    assert set(rows) == set(table(plan)) - {"views"}


def test_plan_for_a_student_with_a_larger_grid_is_refused_before_anything_runs() -> None:
    student = {
        "training": {"epochs": 5},
        "model": {"backbone": "resnet50", "backbone_args": {"output_stride": 8}},
    }
    with pytest.raises(ExperimentError, match=r"14x14 at student\.size 112") as caught:
        plan_targets(experiment(student=student), num_classes=5)
    assert "targets.features.grid: teacher" in str(caught.value)
    on_teacher_grid = experiment(student=student, targets={"features": {"grid": "teacher"}})
    assert plan_targets(on_teacher_grid, num_classes=5).feature_grid == (7, 7)


def test_plan_takes_channels_from_the_teacher() -> None:
    student = {"training": {"epochs": 5}, "model": {"backbone": "resnet18"}}
    plan = plan_targets(experiment(student=student), num_classes=5)
    assert table(plan)["features"][0] == (8, 2048, 4, 4)


@pytest.mark.parametrize("grid", ["student", "teacher"])
@pytest.mark.parametrize("size", [48, 40, 96])
def test_encode_fills_exactly_the_planned_arrays(grid: str, size: int) -> None:
    model = {"backbone": "test_resnet"}
    plan = plan_targets(
        tiny(
            targets={"features": {"grid": grid}},
            student={"training": {"epochs": 5}, "model": model, "size": size},
        ),
        num_classes=5,
    )
    output, clips = answer_for(3, plan, 5, 96)
    rows = encode(plan, output, clips)
    planned = {name: kind for name, kind in table(plan).items() if name != "views"}
    assert {name: (row.shape[1:], row.dtype.name) for name, row in rows.items()} == planned
    assert all(len(row) == 3 for row in rows.values())
    np.testing.assert_array_equal(rows["logits"], output.logits_BK.half().numpy())
    np.testing.assert_array_equal(rows["frames"], shrink(clips, size).numpy())
    if grid == "teacher":
        np.testing.assert_array_equal(rows["features"], output.features_BTChw.half().numpy())
    else:
        maps, residual = project(output.features_BTChw, plan.feature_grid)
        np.testing.assert_array_equal(rows["features"], maps.half().numpy())
        np.testing.assert_array_equal(rows["feature_residual"], residual.numpy())


def test_encode_of_a_clip_does_not_depend_on_the_clips_beside_it() -> None:
    plan = plan_targets(tiny(), num_classes=5)
    output, clips = answer_for(3, plan, 5, 96)
    together = encode(plan, output, clips)
    alone = encode(plan, ClipOutput(output.features_BTChw[1:2], output.logits_BK[1:2]), clips[1:2])
    for name, row in alone.items():
        np.testing.assert_allclose(row[0], together[name][1], rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["logits", "features"])
@pytest.mark.parametrize("value", [7e4, -7e4, float("nan"), float("inf")])
def test_encode_of_what_float16_cannot_hold_is_refused(name: str, value: float) -> None:
    plan = plan_targets(tiny(targets={"features": {"grid": "teacher"}}), num_classes=5)
    output, clips = answer_for(1, plan, 5, 96)
    (output.logits_BK if name == "logits" else output.features_BTChw).view(-1)[3] = value
    with pytest.raises(DataError, match=f"The teacher's {name} reach .*65504"):
        encode(plan, output, clips)


def test_encode_of_the_largest_float16_is_kept() -> None:
    plan = plan_targets(tiny(), num_classes=5)
    output, clips = answer_for(1, plan, 5, 96)
    output.logits_BK[0, 3] = 65504.0
    assert encode(plan, output, clips)["logits"][0, 3] == 65504.0
