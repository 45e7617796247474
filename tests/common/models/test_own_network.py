"""Networks of the user's: what the protocol asks for, and what is said of those that break it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.own_network import OwnRecognizer, own_source
from reskd.common.models.registry import build_model, complexity
from reskd.common.own_code import trust_code
from tests.own_networks import TINY_NETWORK, write_module


def spec(module: str, attribute: str = "build", **args: Any) -> ModelSpec:
    name = f"{module}:{attribute}"
    trust_code(name)
    return ModelSpec(recognizer="python", backbone=name, backbone_args=args)


def cost(model: ModelSpec) -> tuple[int, int, int, int]:
    return complexity(model, num_classes=5, num_frames=3, size=16).feature_shape


def test_a_network_that_keeps_the_protocol_is_a_recognizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_tiny", TINY_NETWORK, monkeypatch)
    model = build_model(spec("own_tiny", width=6), num_classes=5).eval()
    assert isinstance(model, OwnRecognizer)
    assert model.colours == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.25))
    assert model.num_features == 6
    assert model.classifier_tensors == {"network.head.weight", "network.head.bias"}
    clips = torch.randn(2, 3, 3, 16, 16)
    features, logits = model(clips)
    direct = model.network(clips)
    assert torch.equal(features, direct[0])
    assert torch.equal(logits, direct[1])
    # The head is affine, so the mean of its map is its score.
    torch.testing.assert_close(model.logit_map(features).mean((1, 2, 3)), logits)
    assert cost(spec("own_tiny", width=6)) == (3, 6, 2, 2)


def test_mean_of_the_experiment_comes_before_that_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_mean", TINY_NETWORK, monkeypatch)
    asked = ModelSpec(recognizer="python", backbone=spec("own_mean").backbone, mean=(0.1, 0.1, 0.1))
    assert build_model(asked, num_classes=2).colours == ((0.1, 0.1, 0.1), (0.2, 0.2, 0.25))


def test_a_network_that_needs_numbers_is_tried_with_a_clip_of_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TINY_NETWORK.replace(
        "        features =", "        assert clips.abs().max().item() >= 0\n        features ="
    )
    write_module(tmp_path, "own_numbers", source, monkeypatch)
    without_numbers = build_model(spec("own_numbers"), num_classes=5).to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        without_numbers(torch.empty(1, 3, 3, 16, 16, device="meta"))
    assert cost(spec("own_numbers")) == (3, 8, 2, 2)


def test_a_network_without_feature_maps_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TINY_NETWORK.replace("return features, self", "return None, self")
    write_module(tmp_path, "own_scores", source, monkeypatch)
    assert cost(ModelSpec(recognizer="python", backbone=spec("own_scores").backbone)) == (
        3,
        0,
        0,
        0,
    )


WRONG = {
    "logits of another number of classes": (
        ("self.head(features.mean((1, 3, 4)))", "features.mean((1, 3, 4))"),
        r"logits of \S+ are of shape \(1, 8\) .* \(B, K\) is \(1, 5\)",
    ),
    "features without time": (
        ("return features, self", "return features.mean(1), self"),
        r"features of \S+ are of shape \(1, 8, 2, 2\) .*\(B, T', C, h, w\) with B = 1",
    ),
    "one tensor": (("return features, self", "return self"), r"returns of shape \(1, 5\)"),
    "another number of channels than it states": (
        ("self.num_features = width", "self.num_features = 7"),
        r"num_features 7, .* C = 8",
    ),
    "a logit map with classes first": (
        ("return self.head(features.movedim(2, -1))", "return features"),
        r"logit map of \S+ has shape \(1, 3, 8, 2, 2\) .* is \(1, 3, 2, 2, 5\)",
    ),
    "a standard deviation of 0": (("(0.2, 0.2, 0.25)", "(0.2, 0, 0.2)"), "std of .* three numbers"),
    "no module": (("return Tiny(num_classes, width)", "return 3"), "returns int"),
    "an argument it has not": (("width=8", "depth=8"), "NameError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_network_that_breaks_the_protocol_is_told_where(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old, new), message = WRONG[case]
    assert old in TINY_NETWORK
    module = f"own_wrong_{list(WRONG).index(case)}"
    write_module(tmp_path, module, TINY_NETWORK.replace(old, new), monkeypatch)
    with pytest.raises(ExperimentError, match=message):
        cost(spec(module))


def test_a_source_is_its_package_and_not_its_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_module(tmp_path, "own_source_a", TINY_NETWORK, monkeypatch)
    write_module(tmp_path, "own_source_b", TINY_NETWORK, monkeypatch)
    before = own_source(spec("own_source_a"), num_classes=5)
    assert before == own_source(spec("own_source_a"), num_classes=7)
    path.write_text(TINY_NETWORK + "# a comment\n")
    assert own_source(spec("own_source_a"), num_classes=5) != before


def test_weights_and_drop_path_are_refused_since_the_function_decides() -> None:
    with pytest.raises(ValueError, match="your function makes the network"):
        ModelSpec(recognizer="python", backbone="a:b", pretrained=True)
