"""A cache made in one precision, checked on a device that computes in float32."""

from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reskd.common.cli.main import main
from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.common.distill.differences import LARGEST_DIFFERENCE
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Precision
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import read_checkpoint_info
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.precision import PrecisionMeasure, largest, replay_precision
from reskd.teacher_cache.verify.recompute import Draw, verify_semantic
from reskd.teacher_cache.verify.report import ArrayLimit, Report
from tests.teacher_cache.handling import Rows, edit_identity, reseal
from tests.tiny_experiment import CPU, save_random_teacher

ALL = "{features: {dtype: int8}, logit_map: {top_k: 2}}"
MAPS = "{logits: null}"


def in_precision(
    experiment: Path, precision: Precision, *, mode: str = "eval", targets: str = ALL
) -> None:
    """Write a precision and targets into an experiment."""
    text = experiment.read_text().split("targets:")[0]
    lines = [line for line in text.splitlines() if not line.startswith(("  precision:", "  mode:"))]
    place = lines.index("teacher:") + 1
    lines[place:place] = [f"  precision: {precision}", f"  mode: {mode}"]
    experiment.write_text("\n".join([*lines, f"targets: {targets}", ""]))


def cached(experiment: Path) -> Path:
    folder = experiment.parent / "cache"
    assert main(["cache-teacher", str(experiment), "--cache", str(folder)]) == 0
    return folder


def check(experiment: Path, folder: Path) -> Report:
    chosen, draw = load_experiment(str(experiment)), Draw(rows=10**6, seed=0)
    return verify_semantic(chosen, folder, draw, device=CPU, threads=1)


def one_percent_more(rows: Rows, _: CacheReader) -> None:
    rows["logits"][1] *= np.float16(1.01)


def limits(report: Report) -> dict[str, ArrayLimit]:
    assert report.semantic is not None
    assert report.semantic.rows == 27
    return report.semantic.limits


@pytest.mark.parametrize(
    ("precision", "mode", "targets"),
    [
        pytest.param("float16", "eval", ALL, id="float16"),
        pytest.param("float16", "batch", ALL, id="float16-batch"),
        pytest.param("tf32", "eval", ALL, id="tf32"),
        pytest.param("bfloat16", "eval", MAPS, id="bfloat16"),
    ],
)
def test_cache_in_another_precision_is_whole_where_float32_checks_it(
    tiny_experiment: Path,
    precision: Precision,
    mode: str,
    targets: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_precision(tiny_experiment, precision, mode=mode, targets=targets)
    report = check(tiny_experiment, cached(tiny_experiment))
    assert report.findings == ()
    said = f"the cache is of {precision}; on a cpu its teacher is asked in float32"
    assert capsys.readouterr().err.count(said) == 1
    for name, of in limits(report).items():
        assert of.precision_difference is not None, name
        assert of.precision_difference > 0, name
        assert of.limit is not None
        assert of.limit >= 2 * of.precision_difference
    features = limits(report)["features"]
    assert features.encode_error is not None
    assert features.largest_difference is not None
    if precision == "bfloat16":  # without what it adds the cache would not have passed
        assert features.largest_difference > 2 * features.encode_error


def test_float16_cache_stands_for_one_of_a_gpu_in_tf32(tiny_experiment: Path) -> None:
    in_precision(tiny_experiment, "float16", targets="{}")
    folder = cached(tiny_experiment)
    in_precision(tiny_experiment, "tf32", targets="{}")
    edit_identity(folder, "teacher", "precision", value="tf32")
    report = check(tiny_experiment, folder)
    assert report.findings == ()
    difference = limits(report)["logits"].largest_difference
    assert difference is not None
    assert difference > 1e-4


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_cache_of_a_wrong_teacher_is_found_row_by_row(
    tiny_experiment: Path, precision: Precision
) -> None:
    in_precision(tiny_experiment, precision, targets=MAPS)
    experiment = load_experiment(str(tiny_experiment))
    save_random_teacher(experiment, seed=2)
    folder = cached(tiny_experiment)
    save_random_teacher(experiment, seed=1)
    right = read_checkpoint_info(experiment.teacher.checkpoint).weights_sha256
    edit_identity(folder, "teacher", "weights_sha256", value=right)
    report = check(tiny_experiment, folder)
    wrong = {(one.view, one.video) for one in report.findings if one.array == "features"}
    assert len(wrong) == 27


def test_row_that_is_off_by_more_than_its_precision_adds_is_found(tiny_experiment: Path) -> None:
    in_precision(tiny_experiment, "float16", targets="{}")
    folder = cached(tiny_experiment)
    reseal(folder, 4, one_percent_more)
    (finding,) = check(tiny_experiment, folder).findings
    assert (finding.array, finding.view, finding.video) == ("logits", 1, 4)


def test_device_that_cannot_measure_takes_the_most_a_cache_is_made_with(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_precision(tiny_experiment, "float16", targets="{}")
    folder = cached(tiny_experiment)
    predict = Teacher.predict

    def unable(self: Teacher, clips_BT3HW: Tensor) -> TeacherOutput:
        if self.precision != "float32":
            raise ExperimentError("no half numbers here.")
        return predict(self, clips_BT3HW)

    monkeypatch.setattr(Teacher, "predict", unable)
    report = check(tiny_experiment, folder)
    assert report.findings == ()
    assert "no half numbers here. Here 8e-03 is taken" in capsys.readouterr().err
    assert {of.limit for of in limits(report).values()} == {2 * LARGEST_DIFFERENCE}


def test_measured_difference_is_never_more_than_a_cache_is_made_with() -> None:
    logits = ArraySpec(name="logits", row_shape=(3,), dtype="float16")
    plan = TargetPlan(arrays=(logits,), teacher_grid=(1, 1), feature_grid=(1, 1), student_size=1)
    said = torch.tensor([[1.001, 1.001, 1.001], [2.0, 2.0, 2.0], [nan, 1.0, 1.0]])

    def teacher_in(precision: Precision) -> Any:
        logits_BK = torch.ones(3, 3) if precision == "float32" else said
        output = TeacherOutput(torch.empty(3, 0), logits_BK)
        return SimpleNamespace(predict=lambda _: output)

    measure = PrecisionMeasure(plan, "float16", teacher_in, CPU)
    found = measure.by_clip(torch.zeros(3, 1))
    assert [one["logits"] for one in found] == pytest.approx([1e-3, 8e-3, 8e-3], rel=1e-3)
    assert largest(found) == {"logits": 8e-3}
    assert measure.by_clip(torch.empty(0)) == []


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda", "float16"), ("cpu", "float32")], ids=["cuda", "cpu"]
)
def test_only_a_gpu_computes_again_in_the_precision_of_the_cache(
    device: str, expected: str
) -> None:
    assert replay_precision("float16", torch.device(device)) == expected
