"""What is exported scores as the network, says how to feed it, and is not there if it does not."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.common.experiment import ModelSpec
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.deploy import export as exporting
from reskd.student_train.deploy.export import METADATA_FILE, METADATA_PROPERTY, Exported, export
from reskd.student_train.deploy.predictor import load_predictor
from tests.common.models.networks import TINY_SWIN
from tests.student_train.random_checkpoint import random_checkpoint

CLASSES = ("a", "b", "ü")
SLOW = pytest.mark.slow

FAMILIES = {
    "tsn": ModelSpec(backbone="test_resnet"),
    "tsm": ModelSpec(recognizer="tsm", backbone="test_resnet"),
    "slowonly": ModelSpec(recognizer="slowonly", backbone="test_resnet"),
    "swin3d": ModelSpec(recognizer="swin3d", backbone="swin3d_t", backbone_args=TINY_SWIN),
    "torchvision": ModelSpec(recognizer="torchvision", backbone="r2plus1d_18"),
}


def checkpoint(folder: Path, spec: ModelSpec = FAMILIES["tsn"]) -> Path:
    return random_checkpoint(folder, spec=spec, size=32, classes=CLASSES)


def load_pt2(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """As another program would: with torch alone."""
    extra = {METADATA_FILE: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return module, json.loads(extra[METADATA_FILE])


def assert_scores_as_network(scores: NDArray[np.float32], folder: Path, clips: Tensor) -> None:
    model, _ = load_checkpoint(folder)
    with torch.inference_mode():
        expected = model(clips).logits_BK.numpy()
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "family",
    [
        "tsn",
        "tsm",
        "slowonly",
        *(pytest.param(name, marks=SLOW) for name in ("swin3d", "torchvision")),
    ],
)
def test_pt2_of_every_family_takes_any_number_of_clips(family: str, tmp_path: Path) -> None:
    folder, out = checkpoint(tmp_path / "run", FAMILIES[family]), tmp_path / "network.pt2"
    result = export(folder, out, format="pt2")
    assert set(result["difference"]) == {"2", "3", "1"}
    assert max(result["difference"].values()) <= 1e-4
    run, _ = load_pt2(out)
    batch, frames, *rest = result["input"]
    assert (batch, rest) == ("B", [3, 32, 32])
    clips = torch.randn(5, frames, 3, 32, 32)
    with torch.inference_mode():
        assert_scores_as_network(run(clips).numpy(), folder, clips)


@pytest.mark.parametrize(
    "family", [name if name == "tsn" else pytest.param(name, marks=SLOW) for name in FAMILIES]
)
def test_onnx_takes_any_number_of_clips(family: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder, out = checkpoint(tmp_path / "run", FAMILIES[family]), tmp_path / "network.onnx"
    result = export(folder, out, format="onnx")
    assert max(result["difference"].values()) <= 1e-4
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, returned.name) == ("clips", "logits")
    assert isinstance(given.shape[0], str)
    facts = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_PROPERTY])
    assert facts["classes"] == list(CLASSES)
    clips = torch.randn(5, *result["input"][1:])
    (scores,) = session.run(None, {"clips": clips.numpy()})
    assert_scores_as_network(scores, folder, clips)


def test_command_writes_facts_that_make_the_input_from_a_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = checkpoint(tmp_path / "run"), tmp_path / "deep" / "network.pt2"
    assert main(["export", str(folder), str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == str(out)
    assert result["bytes"] == out.stat().st_size
    _, facts = load_pt2(out)
    frames = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (torch.tensor(facts["input"][key]).view(3, 1, 1) for key in ("mean", "std"))
    own = load_checkpoint(folder)[0].normalize(frames)
    torch.testing.assert_close((frames - mean) / std, own)
    assert (facts["input"]["frames"], facts["input"]["size"]) == (8, 32)
    assert facts["resizing"]["short_side"] == 256
    assert facts["resizing"]["centre_crop"] == facts["resizing"]["crop_becomes"] == 224
    assert facts["resizing"]["then_shrunk_to"] == 32
    assert facts["sampling"]["num_clips"] == 8
    assert facts["output"]["probabilities"] == "softmax"
    assert facts["classes"] == list(CLASSES)
    _, info = load_checkpoint(folder)
    assert facts["checkpoint"]["weights_sha256"] == info.weights_sha256


class _Network(Recognizer):
    """Does with its class scores what the test wants."""

    def __init__(self, scores: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.scores = scores

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        pooled_B3 = clips_BT3HW.mean(dim=(1, 3, 4)) * self.weight
        return ClipOutput(clips_BT3HW, self.scores(pooled_B3))


def take_network(
    scores: Callable[[Tensor], Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkpoint directory that is taken for one of such a network, which is quick to export."""
    predictor = replace(load_predictor(checkpoint(folder)), model=_Network(scores).eval())
    monkeypatch.setattr(exporting, "load_predictor", lambda folder, device: predictor)
    return folder


def change_scores(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    """Let what is exported give other scores."""
    sound = exporting._as_pt2

    def as_pt2(*arguments: Any) -> Exported:
        exported = sound(*arguments)
        run = exported.run()
        return Exported(exported.content, lambda: lambda clips: change(run(clips)))

    monkeypatch.setattr(exporting, "_as_pt2", as_pt2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda scores: scores + 3e-4 * np.abs(scores).max(),
            r"differ by 3\.\de-04 of the largest",
        ),
        (lambda scores: scores * np.float32("nan"), "differ by nan"),
        (lambda scores: scores[:2], r"with \(3, 3\) scores, .* with \(2, 3\)"),
    ],
    ids=["others", "nan", "too few"],
)
def test_file_that_scores_otherwise_is_not_left(
    change: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_scores(monkeypatch, change)
    folder = take_network(torch.clone, tmp_path / "run", monkeypatch)
    out = tmp_path / "out" / "network.pt2"
    with pytest.raises(DataError, match=told):
        export(folder, out, format="pt2")
    assert not out.parent.exists()
    assert export(folder, out, format="pt2", check=False)["difference"] is None
    assert [path.name for path in out.parent.iterdir()] == ["network.pt2"]


def test_rounding_is_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_scores(monkeypatch, lambda scores: scores + 3e-5 * np.abs(scores).max())
    folder = take_network(torch.clone, tmp_path / "run", monkeypatch)
    result = export(folder, tmp_path / "network.pt2", format="pt2")
    assert max(result["difference"].values()) == pytest.approx(3e-5, rel=0.05)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (lambda given: given if given.sum() > 0 else -given, "torch.export cannot record"),
        (lambda given: given.reshape(2, 3), "torch.export cannot record .* of any number"),
        (lambda given: given / 0, "some of which are no numbers"),
    ],
    ids=["branch", "fixed batch", "nan"],
)
def test_network_that_cannot_be_exported_is_refused_with_the_reason(
    scores: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = take_network(scores, tmp_path / "run", monkeypatch)
    with pytest.raises(DataError, match=told):
        export(folder, tmp_path / "network.pt2", format="pt2")
    assert not (tmp_path / "network.pt2").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_extra_is_named_before_anything_is_read(
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        there = None if name == missing else ModuleType(name)
        monkeypatch.setitem(sys.modules, name, there)
    assert main(["export", str(tmp_path), str(tmp_path / "network.onnx")]) == 3
    told = capsys.readouterr().err
    assert f"needs the package {missing}" in told
    assert "pip install 'reskd[export]'" in told


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["run", "network.onx"], 2, "OUT ends in .pt2 or .onnx"),
        (["run", "network.onnx", "--format", "pt2"], 3, "must end in .pt2 for --format pt2"),
        (["gone", "network.pt2"], 3, "is not a checkpoint directory"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == code
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
