"""A teacher that is not itself in its precision is stopped before anything is cached."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.experiment.load import experiment_tree, load_experiment
from reskd.common.models.checkpoint import load_checkpoint, save_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.teacher_cache.run_log import read_runs
from tests.tiny_experiment import save_random_teacher


def cache(experiment: Path, *overrides: str) -> int:
    options = [word for one in overrides for word in ("-o", one)]
    folder = experiment.parent / "cache"
    return main(["cache-teacher", str(experiment), "--cache", str(folder), *options])


def change_teacher(experiment_file: Path, change: Callable[[Recognizer], None]) -> None:
    experiment = load_experiment(str(experiment_file))
    model, info = load_checkpoint(experiment.teacher.checkpoint)
    with torch.no_grad():
        change(model)
    save_checkpoint(
        experiment.teacher.checkpoint,
        model,
        role="teacher",
        spec=experiment.teacher.model,
        size=experiment.views.size,
        classes=info.classes,
        experiment=experiment_tree(experiment),
    )


@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_difference_from_float32_is_said_once_and_kept_in_the_log(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    options = ("teacher.precision=float16", f"teacher.mode={mode}")
    assert cache(tiny_experiment, *options) == 0
    said = "teacher: float16 differs from float32 by up to"
    assert capsys.readouterr().err.count(said) == 1
    first, *_ = read_runs(tiny_experiment.parent / "cache")
    check = first["precision_check"]
    full_groups = {"eval": 27, "batch": 24}  # nine videos, three views of each
    assert (check["precision"], check["device"]) == ("float16", "cpu")
    assert check["clips"] == full_groups[mode]
    assert set(check["differences"]) == {"logits", "features"}
    assert all(1e-4 < value < 4e-3 for value in check["differences"].values())
    assert cache(tiny_experiment, *options) == 0  # finished
    assert said not in capsys.readouterr().err


def test_precision_that_costs_more_than_int8_is_refused(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny_experiment.read_text()
    model = "{backbone: test_efficientnet"
    text = text.replace("{backbone: test_resnet, backbone_args: {output_stride: 16}", model, 1)
    tiny_experiment.write_text(text)
    save_random_teacher(load_experiment(str(tiny_experiment)), seed=1)
    assert cache(tiny_experiment, "teacher.precision=bfloat16") == 3
    error = capsys.readouterr().err
    assert "In teacher.precision bfloat16 the teacher's" in error
    assert "Set teacher.precision: float16, tf32 or float32" in error
    assert not (tiny_experiment.parent / "cache").exists()
    assert cache(tiny_experiment, "teacher.precision=float16") == 0


def _overflow_inside(model: Recognizer) -> None:
    """The first convolution gives a million; BatchNorm knows that and divides by it again."""
    backbone = model.get_submodule("backbone.model")
    backbone.get_parameter("conv1.0.weight").mul_(1e6)
    backbone.get_buffer("conv1.1.running_var").mul_(1e12)


def _not_a_number(model: Recognizer) -> None:
    next(model.parameters())[0, 0, 0, 0] = float("nan")


def test_teacher_that_overflows_inside_is_refused_by_the_name_of_the_field(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_teacher(tiny_experiment, _overflow_inside)
    assert cache(tiny_experiment, "teacher.precision=float16") == 3
    error = capsys.readouterr().err
    assert "In teacher.precision float16 the teacher's outputs are not finite" in error
    assert "Set teacher.precision: tf32 or float32" in error
    assert not (tiny_experiment.parent / "cache").exists()
    assert cache(tiny_experiment) == 0


def test_teacher_that_is_broken_in_float32_too_is_not_blamed_on_its_precision(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_teacher(tiny_experiment, _not_a_number)
    assert cache(tiny_experiment, "teacher.precision=float16") == 3
    assert "not even in float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("teacher.precision=float32",),
        ("teacher.precision=tf32",),
        (
            "teacher.precision=float16",
            "targets={logits: null, features: null}",
            "student.losses={cross_entropy: 1.0, feature_mse: 0.0}",
        ),
    ],
    ids=["float32", "tf32 on a CPU", "nothing of the teacher's is stored"],
)
def test_nothing_is_compared_where_nothing_can_differ(
    tiny_experiment: Path, options: tuple[str, ...]
) -> None:
    assert cache(tiny_experiment, *options) == 0
    assert all("precision_check" not in run for run in read_runs(tiny_experiment.parent / "cache"))
