"""TSN over timm backbones: against its own definition, and against the reference's outputs."""

import json
import os
import zlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.frame_backbone import FrameBackbone
from reskd.common.models.registry import build_model, complexity
from reskd.common.models.tsn import TSN
from tests import REPOSITORY

TINY = ModelSpec(backbone="test_resnet", dropout=0.5)


class ScaledFrames(nn.Module):
    """A backbone that can be worked out by hand: channel c is (c + 1) times the first colour."""

    num_features = 4

    def forward(self, frames_N3HW: Tensor) -> Tensor:
        return frames_N3HW[:, :1] * torch.arange(1.0, 5.0).view(1, 4, 1, 1)


def test_tsn_output_has_the_stated_shapes() -> None:
    model = build_model(TINY, num_classes=7).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 3, 64, 64))
    assert output.features_BTChw.shape == (2, 3, 96, 2, 2)
    assert output.logits_BK.shape == (2, 7)
    assert model.num_features == 96


def test_tsn_logits_are_the_classifier_of_the_mean_over_frames_and_cells() -> None:
    model = build_model(TINY, num_classes=7).eval().double()
    assert isinstance(model, TSN)
    nn.init.normal_(model.classifier.bias)
    with torch.no_grad():
        features, logits = model(torch.randn(2, 3, 3, 64, 96, dtype=torch.float64))
    assert features.shape[-2:] == (2, 3)
    pooled = features.numpy().mean(axis=(1, 3, 4))
    expected = pooled @ model.classifier.weight.detach().numpy().T
    expected += model.classifier.bias.detach().numpy()
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-12, atol=1e-15)


def test_tsn_frames_of_a_batch_do_not_mix() -> None:
    model = TSN(ScaledFrames(), num_classes=2, dropout=0.0).eval()
    clips = torch.arange(24.0).view(2, 3, 1, 2, 2).expand(-1, -1, 3, -1, -1)
    features = model(clips).features_BTChw
    assert torch.equal(features[:, :, 2], 3 * clips[:, :, 0])


def test_tsn_in_training_drops_from_the_average_over_frames_once() -> None:
    model = TSN(ScaledFrames(), num_classes=2, dropout=0.5).train()
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    clips = torch.rand(5, 3, 3, 2, 2)
    model(clips)
    assert len(seen) == 1
    expected = clips[:, :, 0].mean(dim=(1, 2, 3))[:, None] * torch.arange(1.0, 5.0)
    torch.testing.assert_close(seen[0], expected)


def test_tsn_classifier_starts_small_and_unbiased() -> None:
    model = build_model(TINY, num_classes=2000)
    assert isinstance(model, TSN)
    weight = model.classifier.weight
    assert weight.shape == (2000, 96)
    assert weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert abs(weight.mean().item()) < 1e-5
    assert not model.classifier.bias.any()


def test_build_model_follows_the_global_generator() -> None:
    torch.manual_seed(3)
    first = build_model(TINY, num_classes=3).state_dict()
    torch.manual_seed(3)
    second = build_model(TINY, num_classes=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "args", "size", "channels", "side"),
    [
        ("test_resnet", {}, 112, 96, 4),
        ("test_resnet", {"output_stride": 16}, 96, 96, 6),
        ("test_resnet.r160_in1k", {}, 96, 96, 3),
        ("test_convnext", {}, 96, 64, 3),
        ("test_efficientnet", {}, 112, 256, 4),
        ("test_byobnet", {}, 112, 256, 4),
        ("test_nfnet", {}, 112, 192, 4),
        ("test_mambaout", {}, 112, 64, 4),
        ("test_maxvit", {"img_size": 96}, 96, 128, 3),
        ("test_vit", {"img_size": 112}, 112, 64, 7),
        ("test_vit2", {"img_size": 96}, 96, 64, 6),
        ("test_vit3", {"img_size": 112}, 112, 96, 7),
        ("test_vit4", {"img_size": 96}, 96, 96, 6),
        ("test_vit_relpos", {"img_size": 96}, 96, 96, 6),
        ("swin_tiny_patch4_window7_224", {"img_size": 224}, 224, 768, 7),  # channels come last
    ],
)
def test_backbone_of_any_family_gives_square_maps_of_its_channels(
    name: str, args: dict[str, Any], size: int, channels: int, side: int
) -> None:
    with torch.device("meta"):
        backbone = FrameBackbone(name, pretrained=False, args=args).eval()
        features = backbone(torch.empty(2, 3, size, size))
    assert features.shape == (2, channels, side, side)
    assert backbone.num_features == channels


@pytest.mark.parametrize("name", ["test_vit", "test_vit_relpos"])
def test_backbone_of_tokens_lays_patches_out_where_they_were(name: str) -> None:
    backbone = FrameBackbone(name, pretrained=False, args={"img_size": 96}).eval()
    frame = torch.zeros(1, 3, 96, 96)
    frame[..., 16:32, 64:80] = 3.0  # patch (1, 4) of 6 x 6
    with torch.no_grad():
        change = (backbone(frame) - backbone(torch.zeros_like(frame))).square().sum(dim=1)[0]
    assert divmod(int(change.argmax()), 6) == (1, 4)


def test_backbone_with_channels_last_keeps_rows_and_columns() -> None:
    backbone = FrameBackbone(
        "swin_tiny_patch4_window7_224", pretrained=False, args={"depths": (1, 1, 1, 1)}
    ).eval()
    frame = torch.zeros(1, 3, 224, 224)
    frame[..., 32:64, 160:192] = 3.0  # cell (1, 5) of 7 x 7
    with torch.no_grad():
        change = (backbone(frame) - backbone(torch.zeros_like(frame))).square().sum(dim=1)[0]
    assert divmod(int(change.argmax()), 7) == (1, 5)


@pytest.mark.parametrize(("name", "close"), [("resnet5O", "resnet50"), ("rezent18", "resnet18")])
def test_backbone_unknown_to_timm_is_refused_naming_close_ones(name: str, close: str) -> None:
    with pytest.raises(ExperimentError, match=f"timm knows no model '{name}'") as caught:
        build_model(ModelSpec(backbone=name), num_classes=3)
    assert close in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "args",
    [
        {"output_strode": 16},
        {"output_stride": 7},
        {"num_classes": 3},
        {"features_only": True},
        {"img_size": 96},
    ],
)
def test_backbone_args_that_timm_refuses_are_named(args: dict[str, object]) -> None:
    with pytest.raises(ExperimentError, match="timm cannot make test_resnet") as caught:
        build_model(ModelSpec(backbone="test_resnet", backbone_args=args), num_classes=3)
    assert repr(args) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_vit3", 96),  # made for 160 px
        ("test_maxvit", 112),  # windows of 5 cells
        ("test_coatnet", 96),
    ],
)
def test_backbone_that_cannot_take_the_size_is_refused_saying_what_to_do(
    name: str, size: int
) -> None:
    with pytest.raises(
        ExperimentError, match=f"{name} makes no feature map of {size} px"
    ) as caught:
        complexity(ModelSpec(backbone=name), num_classes=3, num_frames=2, size=size)
    assert f"img_size: {size}" in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "num_frames", "size", "gmacs", "side"),
    [
        ("resnet50", 8, 224, 32.7, 7),
        ("resnet50", 8, 112, 8.6, 4),
        ("resnet50", 16, 160, 33.4, 5),
        ("resnet50", 16, 128, 21.4, 4),
        ("resnet50", 16, 96, 12.0, 3),
        ("resnet50", 16, 72, 8.2, 3),
        ("resnet152", 16, 224, 184.2, 7),
        ("resnet152", 8, 112, 23.5, 4),
    ],
)
def test_complexity_of_resnet_equals_the_published_cost(
    backbone: str, num_frames: int, size: int, gmacs: float, side: int
) -> None:
    cost = complexity(
        ModelSpec(backbone=backbone), num_classes=200, num_frames=num_frames, size=size
    )
    assert cost.feature_shape == (num_frames, 2048, side, side)
    # Published with one decimal; the large ones must be within 0.2 % as well.
    assert cost.gmacs == pytest.approx(gmacs, abs=min(0.051, 2e-3 * max(gmacs, 26)))


def test_complexity_counts_parameters_of_backbone_and_classifier() -> None:
    spec = ModelSpec(backbone="resnet50", pretrained=True)  # pretrained must not fetch anything
    cost = complexity(spec, num_classes=1000, num_frames=1, size=64)
    assert cost.parameters == 25_557_032  # as torchvision states for its ResNet-50


# What the reference system computes from weights and inputs that are functions of their names.

SHARED = Path(os.environ.get("RESKD_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
REFERENCE = SHARED.parent / "reference"


def reference_weights() -> ModuleType:
    if not (REFERENCE / "weights.py").is_file():
        pytest.skip("the reference's outputs are not at hand")
    spec = spec_from_file_location("reference_weights", REFERENCE / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timm_name(key: str) -> str:
    """`backbone.layer1.0.conv2.bn.weight` is `backbone.model.layer1.0.bn2.weight` here."""
    if key.startswith("cls_head.fc_cls."):
        return key.replace("cls_head.fc_cls", "classifier")
    *place, layer, kind, leaf = key.removeprefix("backbone.").split(".")
    if layer == "downsample":
        name = f"downsample.{0 if kind == 'conv' else 1}"
    else:
        name = layer if kind == "conv" else layer.replace("conv", "bn")
    return ".".join(["backbone.model", *place, name, leaf])


@pytest.fixture(scope="module")
def golden() -> tuple[ModuleType, TSN]:
    """The reference's TSN ResNet-50 in our model, every tensor compared."""
    weights = reference_weights()
    spec = json.loads((REFERENCE / "specs" / "tsn_r50.json").read_text())
    state = weights.make_state_dict(spec)
    checksum = 0
    for value in state.values():
        checksum = zlib.crc32(np.ascontiguousarray(value).tobytes(), checksum)
    assert checksum == spec["crc32"]
    mapped = {timm_name(key): torch.from_numpy(np.array(value)) for key, value in state.items()}
    assert len(mapped) == len(state)
    model = build_model(ModelSpec(), num_classes=state["cls_head.fc_cls.bias"].shape[0])
    model.load_state_dict(mapped)  # strict: every name of ours is there, and no other
    assert isinstance(model, TSN)
    return weights, model.eval()


def test_reference_weights_lie_in_our_model_unchanged(golden: tuple[ModuleType, TSN]) -> None:
    weights, model = golden
    ours = model.state_dict()
    spec = json.loads((REFERENCE / "specs" / "tsn_r50.json").read_text())
    for key, shape, kind in spec["params"]:
        np.testing.assert_array_equal(
            ours[timm_name(key)].numpy(), weights.make_tensor(key, shape, kind), err_msg=key
        )


def largest_error(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Over the largest value, as the tolerance is stated."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(
    ("case", "shape"),
    [("64", (2, 4, 3, 64, 64)), ("112", (1, 16, 3, 112, 112)), ("224", (1, 4, 3, 224, 224))],
)
def test_resnet50_gives_the_outputs_of_the_reference(
    case: str, shape: tuple[int, ...], golden: tuple[ModuleType, TSN]
) -> None:
    weights, model = golden
    expected = np.load(REFERENCE / "data" / "model_tsn_r50.npz")
    clips = torch.from_numpy(weights.make_input(f"tsn_r50/{case}", shape))
    with torch.no_grad():
        output = model(clips)
    features = output.features_BTChw.flatten(0, 1).numpy()
    assert tuple(expected[f"{case}/feat/shape"]) == features.shape
    stride = int(expected[f"{case}/feat/stride"])
    assert largest_error(features.reshape(-1)[::stride], expected[f"{case}/feat/flat"]) <= 1e-5
    assert largest_error(features.mean(axis=(0, 2, 3)), expected[f"{case}/feat/mean_c"]) <= 1e-5
    assert largest_error(features.std(axis=(0, 2, 3)), expected[f"{case}/feat/std_c"]) <= 1e-5
    norms = np.linalg.norm(features.reshape(len(features), -1), axis=1)
    assert largest_error(norms, expected[f"{case}/feat/norm"]) <= 1e-5
    assert largest_error(output.logits_BK.numpy(), expected[f"{case}/logits"]) <= 1e-5


def test_weights_that_cannot_be_fetched_name_the_file_and_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ExperimentError, match=r"timm/resnet50\.tv_in1k elsewhere.*file: PATH"):
        FrameBackbone("resnet50", pretrained=True, args={"pretrained_cfg": "tv_in1k"})
    with pytest.raises(ExperimentError, match=r"timm/resnet50\.a1_in1k elsewhere"):
        FrameBackbone("resnet50", pretrained=True, args={})


def test_weights_fetched_by_hand_are_read_from_the_file_that_is_named(tmp_path: Path) -> None:
    wanted = timm.create_model("test_resnet", pretrained=False).state_dict()
    save_file(wanted, tmp_path / "model.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "model.safetensors")}}
    backbone = FrameBackbone("test_resnet", pretrained=True, args=overlay)
    assert torch.equal(backbone.model.state_dict()["conv1.0.weight"], wanted["conv1.0.weight"])
