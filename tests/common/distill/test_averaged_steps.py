"""Feature maps of which the mean of neighbouring time steps is stored, for students of fewer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.distill.arrays import AVERAGED_STEPS, ArraySpec, TargetPlan
from reskd.common.distill.encoding import decode_features, encode, encode_error
from reskd.common.distill.targets import plan_targets
from reskd.common.distill.teacher import TeacherOutput
from reskd.common.errors import ExperimentError
from reskd.common.experiment.load import load_experiment
from tests.common.models.tiny_transformers import ARGS
from tests.tiny_experiment import MODEL

STUDENT = {**ARGS["videomae"], "image_size": 24}
"""Maps of 2 time steps and 3x3 places for 4 frames, of which a TSN makes 4 steps."""
FOUR_FRAMES = "clip.num_clips=4"


@pytest.fixture
def experiment(tiny_experiment: Path) -> Path:
    """The tiny one with that student."""
    text = tiny_experiment.read_text(encoding="utf-8")
    teacher, student = text.split("student:")
    model = f"{{recognizer: transformers, backbone: videomae, backbone_args: {STUDENT}}}"
    assert MODEL in student
    tiny_experiment.write_text(f"{teacher}student:{student.replace(MODEL, model)}")
    return tiny_experiment


def _plan(dtype: str, steps: int, **attributes: Any) -> TargetPlan:
    arrays = [ArraySpec(name="features", row_shape=(steps, 3, 2, 2), dtype=dtype)]
    if dtype == "int8":
        arrays.append(ArraySpec(name="feature_scale", row_shape=(3,), dtype="float16"))
    arrays.append(ArraySpec(name="feature_residual", row_shape=(), dtype="float32"))
    own = tuple(
        ArraySpec(name=a.name, row_shape=a.row_shape, dtype=a.dtype, attributes=attributes)
        for a in arrays
    )
    return TargetPlan(arrays=own, teacher_grid=(5, 5), feature_grid=(2, 2), student_size=8)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_mean_of_steps_is_stored_within_the_bounds_of_its_encoding(dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 6, 3, 5, 5, generator=generator)
    mean = torch.stack([maps[:, :3].mean(1), maps[:, 3:].mean(1)], dim=1)
    rows, expected = (
        encode(plan, TeacherOutput(features, torch.zeros(2, 4)), torch.empty(0))
        for plan, features in (
            (_plan(dtype, 2, **{AVERAGED_STEPS: 3}), maps),
            (_plan(dtype, 2), mean),
        )
    )
    exact = encode(_plan("float16", 2), TeacherOutput(mean * 64, torch.zeros(2, 4)), torch.empty(0))
    for name, row in expected.items():
        torch.testing.assert_close(
            torch.from_numpy(rows[name]), torch.from_numpy(row), rtol=1e-3, atol=1e-3
        )
    for clip in range(2):
        own = {name: row[clip] for name, row in rows.items()}
        stored = decode_features(
            {name: torch.from_numpy(row[clip : clip + 1]) for name, row in rows.items()}
        )[0]
        live = torch.from_numpy(exact["features"][clip]).float() / 64
        error = float((stored - live).norm() / live.norm())
        assert error <= encode_error("features", own) + 1e-3


def test_plan_has_as_many_steps_as_the_student(experiment: Path) -> None:
    wanted = load_experiment(str(experiment), [FOUR_FRAMES, "targets.features.average_steps=2"])
    arrays = {array.name: array for array in plan_targets(wanted, num_classes=3).arrays}
    assert arrays["features"].row_shape == (2, 96, 3, 3)
    assert arrays["features"].attributes[AVERAGED_STEPS] == 2
    usual = plan_targets(load_experiment("demo"), num_classes=3)
    assert not any(AVERAGED_STEPS in array.attributes for array in usual.arrays)


@pytest.mark.parametrize(
    ("average", "expected"),
    [
        ("1", r"store the mean of every 2 of them \(targets.features.average_steps: 2\)"),
        ("4", "time steps and the student"),
        ("3", "average_steps is 3, which does not divide the 4 time steps"),
    ],
)
def test_steps_that_do_not_come_to_the_students_are_refused(
    experiment: Path, average: str, expected: str
) -> None:
    steps = f"targets.features.average_steps={average}"
    wanted = load_experiment(str(experiment), [FOUR_FRAMES, steps])
    with pytest.raises(ExperimentError, match=expected):
        plan_targets(wanted, num_classes=3)


def test_student_of_fewer_steps_learns_from_a_cache_that_semantic_proof_passes(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(experiment), "--cache", str(tmp_path / "cache")]
    options = [FOUR_FRAMES, "targets.features={dtype: int8, average_steps: 2}"]
    options += ["student.training.epochs=1"]
    changes = [word for option in options for word in ("-o", option)]
    assert main(["cache-teacher", *given, *changes]) == 0, capsys.readouterr().err
    train = ["train-student", *given, "--run", str(tmp_path / "run"), "--no-validate", *changes]
    assert main(train) == 0, capsys.readouterr().err
    proof = ["cache", "verify", str(tmp_path / "cache"), "--level", "semantic"]
    assert main([*proof, "--experiment", str(experiment), *changes]) == 0, capsys.readouterr().err
