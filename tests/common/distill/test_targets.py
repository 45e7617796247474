"""What a store keeps: planned from shapes alone."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.common.distill.targets import ARRAYS_OF_LOSS, plan_targets
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Experiment, LossSpec
from reskd.common.experiment.load import load_experiment, parse_experiment
from reskd.common.video.views import columns


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
def test_target_left_out_by_null_is_not_planned(target: str, gone: set[str]) -> None:
    student = {
        "training": {"epochs": 5},
        "model": {"backbone": "test_resnet"},
        "size": 48,
        "losses": {"feature_mse": 0},
    }
    everything = set(table(plan_targets(tiny(), num_classes=5)))
    plan = plan_targets(tiny(targets={target: None}, student=student), num_classes=5)
    assert everything - set(table(plan)) == gone
    assert plan.feature_grid == ((3, 3) if target == "features" else (2, 2))


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


LOGIT_MAP: dict[str, Any] = {"logit_map": {}}
EVERYTHING: dict[str, Any] = {
    "features": {"dtype": "int8"},
    "logit_map": {"top_k": 3, "temperature": 4},
}


def test_plan_of_every_target_has_them_in_their_order() -> None:
    plan = plan_targets(tiny(targets=EVERYTHING), num_classes=5)
    assert list(table(plan).items()) == [
        ("logits", ((5,), "float16")),
        ("features", ((2, 96, 2, 2), "int8")),
        ("feature_scale", ((96,), "float16")),
        ("feature_residual", ((), "float32")),
        ("logit_map_ids", ((2, 3, 3, 3), "uint16")),
        ("logit_map_values", ((2, 3, 3, 3), "float16")),
        ("logit_map_rest", ((2, 3, 3), "float16")),
        ("frames", ((2, 3, 48, 48), "uint8")),
        ("views", ((10,), "int32")),
    ]


def test_plan_tells_a_reader_what_shapes_do_not() -> None:
    plan = plan_targets(tiny(targets=EVERYTHING), num_classes=5)
    attributes = {array.name: array.attributes for array in plan.arrays if array.attributes}
    assert attributes == {
        "features": {"grid": [2, 2], "teacher_grid": [3, 3], "align_corners": False},
        "logit_map_rest": {"temperature": 4.0},
        "views": {"columns": columns(2)},
    }


def test_plan_is_the_same_after_having_been_json() -> None:
    for array in plan_targets(tiny(targets=EVERYTHING), num_classes=5).arrays:
        tree = json.loads(json.dumps(asdict(array)))
        assert ArraySpec(**{**tree, "row_shape": tuple(tree["row_shape"])}) == array


def test_array_specs_can_be_members_of_a_set() -> None:
    arrays = plan_targets(tiny(), num_classes=5).arrays
    assert len({*arrays, *arrays}) == len(arrays)


def test_plan_of_a_dense_logit_map_has_all_classes_on_the_teacher_grid() -> None:
    plan = plan_targets(tiny(targets=LOGIT_MAP), num_classes=400)
    assert table(plan)["logit_map"] == ((2, 3, 3, 400), "float16")
    assert not any(name.startswith("logit_map_") for name in table(plan))


def test_plan_of_views_alone_still_has_grids() -> None:
    nothing = {"logits": None, "features": None, "frames": None}
    student = {"training": {"epochs": 5}, "size": 48, "losses": {"feature_mse": 0}}
    plan = plan_targets(tiny(targets=nothing, student=student), num_classes=5)
    assert list(table(plan)) == ["views"]
    assert plan.feature_grid == plan.teacher_grid == (3, 3)


def test_plan_of_int8_on_the_teacher_grid_has_a_scale_and_no_residual() -> None:
    features = {"grid": "teacher", "dtype": "int8"}
    plan = plan_targets(tiny(targets={"features": features, "frames": None}), num_classes=5)
    assert list(table(plan)) == ["logits", "features", "feature_scale", "views"]
    assert plan.arrays[1].attributes["grid"] == [3, 3]


@pytest.mark.parametrize(("top_k", "classes"), [(5, 5), (6, 5), (3, 65536)])
def test_plan_of_a_top_k_map_that_saves_or_names_too_little_is_refused(
    top_k: int, classes: int
) -> None:
    targets = {"logit_map": {"top_k": top_k}}
    with pytest.raises(ExperimentError, match=rf"top_k is {top_k} of {classes} classes"):
        plan_targets(tiny(targets=targets), num_classes=classes)


def test_arrays_of_losses_are_those_that_plans_have() -> None:
    planned: set[str] = set()
    for targets in (EVERYTHING, LOGIT_MAP):
        planned |= set(table(plan_targets(tiny(targets=targets), num_classes=5)))
    named = {name for names in ARRAYS_OF_LOSS.values() for name in names}
    assert named == planned - {"frames", "views"}
    others = {"temperature", "logit_map_temperature", "cross_entropy", "standardise_logits", "own"}
    weights = set(asdict(LossSpec())) - others
    assert set(ARRAYS_OF_LOSS) == weights


def with_losses(losses: dict[str, Any], **changes: Any) -> Experiment:
    return experiment(student={"training": {"epochs": 5}, "losses": losses}, **changes)


def test_logit_map_loss_without_its_target_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"logit_map_kl needs targets\.logit_map, which is"):
        with_losses({"logit_map_kl": 200})
    with_losses({"logit_map_kl": 200}, targets=LOGIT_MAP)


def test_logit_map_loss_alone_is_something_to_learn_from() -> None:
    losses = {"cross_entropy": 0, "feature_mse": 0, "logit_map_kl": 200}
    assert with_losses(losses, targets=LOGIT_MAP).required_student().losses.logit_map_kl == 200


def test_loss_at_another_temperature_than_the_stored_rest_is_refused() -> None:
    losses = {"logit_map_kl": 200, "logit_map_temperature": 3}
    with pytest.raises(ExperimentError, match=r"3\.0 differs from .*temperature 2\.0"):
        with_losses(losses, targets={"logit_map": {"top_k": 3}})
    with_losses(losses, targets={"logit_map": {"top_k": 3, "temperature": 3}})
    with_losses(losses, targets=LOGIT_MAP)  # a dense map serves any temperature


def test_new_choices_are_off_unless_asked_for() -> None:
    plain = experiment()
    assert (plain.teacher.mode, plain.teacher.least_top1, plain.teacher.gate_videos) == (
        "eval",
        None,
        200,
    )
    assert (plain.targets.codec, plain.targets.logit_map) == ("none", None)
    teacher = {"checkpoint": "teacher", "mode": "batch", "least_top1": 0.7}
    assert experiment(teacher=teacher).teacher.mode == "batch"


VIT, RESNET, CROSSVIT = ("test_vit", 160), ("test_resnet", 240), ("crossvit_tiny_240", 240)
"""Backbones and the side of their frames."""


@pytest.mark.parametrize(
    ("teacher", "student", "targets", "message"),
    [
        (VIT, RESNET, LOGIT_MAP, r"targets\.logit_map needs a logit map, which the teacher"),
        (CROSSVIT, RESNET, {}, r"targets\.features needs a feature map, which the teacher"),
        (RESNET, CROSSVIT, {}, r"feature_mse needs a feature map, which the student"),
    ],
    ids=["logit map", "features", "student"],
)
def test_map_that_a_network_does_not_make_is_refused_by_name_with_what_to_do(
    teacher: tuple[str, int], student: tuple[str, int], targets: dict[str, Any], message: str
) -> None:
    wanted = experiment(
        views={"count": 1, "size": teacher[1]},
        teacher={"checkpoint": "teacher", "model": {"backbone": teacher[0]}},
        student={
            "training": {"epochs": 5},
            "model": {"backbone": student[0]},
            "size": min(student[1], teacher[1]),
        },
        targets=targets,
    )
    with pytest.raises(ExperimentError, match=message) as caught:
        plan_targets(wanted, num_classes=5)
    assert "student.losses.logit_kd" in str(caught.value)


def test_teacher_without_any_map_is_cached_by_its_scores() -> None:
    wanted = experiment(
        views={"count": 1, "size": 240},
        teacher={"checkpoint": "teacher", "model": {"backbone": "crossvit_tiny_240"}},
        student={
            "training": {"epochs": 5},
            "model": {"backbone": "test_resnet"},
            "size": 48,
            "losses": {"feature_mse": 0, "logit_kd": 1},
        },
        targets={"features": None},
    )
    assert set(table(plan_targets(wanted, num_classes=5))) == {"logits", "frames", "views"}
