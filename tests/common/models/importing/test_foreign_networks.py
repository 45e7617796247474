"""Imported networks score as the networks they were imported from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear, pad
from torchvision.models import resnet18

from reskd.common.cli.main import main
from reskd.common.models.checkpoint import load_checkpoint
from reskd.common.models.importing.convert import import_checkpoint
from reskd.common.models.importing.efficientnet_names import (
    efficientnet_size,
    timm_efficientnet_names,
)
from reskd.common.models.importing.options import ImportOptions

State = dict[str, Tensor]


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with statistics and scales as training would leave them."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) - 0.3)
    return network.eval()


def scores_of_imported(folder: Path, content: object, clips: Tensor, **options: Any) -> Tensor:
    torch.save(content, folder / "weights.pth")
    import_checkpoint(folder / "weights.pth", folder / "out", ImportOptions(**options))
    model, _ = load_checkpoint(folder / "out")
    with torch.no_grad():
        return model(clips).logits_BK


def assert_same_scores(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def under(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


CLIPS = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model_state": state, "epoch": 3},
        lambda state: {"state_dict": under(state, "model._orig_mod.")},
        lambda state: {"module": under(state, "module.module.")},
        lambda state: {"state_dict": under(state, "model.") | {"loss.weight": torch.ones(3)}},
        lambda state: {"state_dict": under(state, "backbone.model.")},
    ],
    ids=["pyslowfast", "compiled-lightning", "deepspeed", "lightning-loss", "backbone-model"],
)
def test_wrapped_network_scores_as_itself(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    network = awake(timm.create_model("test_resnet", num_classes=5))
    ours = scores_of_imported(
        tmp_path, wrap(network.state_dict()), CLIPS, model="tsn_test_resnet", size=64
    )
    with torch.no_grad():
        theirs = network(CLIPS.flatten(0, 1)).unflatten(0, (2, 3)).mean(1)
    assert_same_scores(ours, theirs)


def test_backbone_with_its_classifier_outside_scores_as_itself(tmp_path: Path) -> None:
    network = awake(resnet18(num_classes=4))
    state = {
        ("" if name.startswith("fc.") else "backbone.") + name: value
        for name, value in network.state_dict().items()
    }
    ours = scores_of_imported(tmp_path, {"state_dict": under(state, "model.")}, CLIPS)
    with torch.no_grad():
        theirs = network(CLIPS.flatten(0, 1)).unflatten(0, (2, 3)).mean(1)
    assert_same_scores(ours, theirs)


class Shifted(nn.Module):
    """A convolution behind the shift of TSM's repository, written out frame by frame."""

    def __init__(self, net: nn.Module, num_frames: int) -> None:
        super().__init__()
        self.net, self.num_frames = net, num_frames

    def forward(self, frames_NChw: Tensor) -> Tensor:
        clips = frames_NChw.unflatten(0, (-1, self.num_frames))
        fold, out = clips.shape[2] // 8, torch.zeros_like(clips)
        for frame in range(self.num_frames):
            if frame + 1 < self.num_frames:
                out[:, frame, :fold] = clips[:, frame + 1, :fold]
            if frame > 0:
                out[:, frame, fold : 2 * fold] = clips[:, frame - 1, fold : 2 * fold]
            out[:, frame, 2 * fold :] = clips[:, frame, 2 * fold :]
        shifted: Tensor = self.net(out.flatten(0, 1))
        return shifted


@pytest.mark.parametrize("shifted", [True, False])
def test_network_of_the_tsm_repository_scores_as_itself(shifted: bool, tmp_path: Path) -> None:
    network: Any = awake(resnet18(num_classes=4))
    blocks = [block for stage in range(1, 5) for block in getattr(network, f"layer{stage}")]
    if shifted:
        for block in blocks:
            block.conv1 = Shifted(block.conv1, 3)
    state = {
        f"module.new_{name}" if name.startswith("fc.") else f"module.base_model.{name}": value
        for name, value in network.state_dict().items()
    }
    assert ("module.base_model.layer1.0.conv1.net.weight" in state) == shifted
    content = {"arch": "resnet18", "state_dict": state, "best_prec1": torch.tensor(50.0)}
    ours = scores_of_imported(tmp_path, content, CLIPS)
    with torch.no_grad():
        theirs = network(CLIPS.flatten(0, 1)).unflatten(0, (2, 3)).mean(1)
    assert_same_scores(ours, theirs)


def test_network_that_shifts_elsewhere_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = resnet18(num_classes=3).state_dict()
    state["layer2.0.conv1.net.weight"] = state.pop("layer2.0.conv1.weight")
    torch.save(under(state, "module.base_model."), tmp_path / "weights.pth")
    assert main(["import-checkpoint", str(tmp_path / "weights.pth"), str(tmp_path / "out")]) == 3
    assert "shifts are not where TSM has them (layer1.0.conv1)" in capsys.readouterr().err


def port_names(state: State) -> State:
    """A timm EfficientNet's tensors under the port's names, by position in the network."""
    blocks = list(dict.fromkeys(".".join(n.split(".")[:3]) for n in state if n[:7] == "blocks."))
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    expands = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    squeeze = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    named: State = {}
    for name, value in state.items():
        layer, leaf = name.rsplit(".", 1)
        if layer == "classifier":
            named[f"_fc.{leaf}"] = value
        elif layer in outside:
            named[f"{outside[layer]}.{leaf}"] = value
        else:
            block, inner = ".".join(layer.split(".")[:3]), ".".join(layer.split(".")[3:])
            table = squeeze | (expands if f"{block}.conv_pwl.weight" in state else plain)
            named[f"_blocks.{blocks.index(block)}.{table[inner]}.{leaf}"] = value
    return named


def port_scores(state: State, frames_N3HW: Tensor) -> Tensor:
    """What the port computes: TensorFlow's padding, its epsilon, ReLU6 of the light networks."""

    def conv(x: Tensor, name: str, stride: int = 1, *, depthwise: bool = False) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        x = pad(x, [total // 2, total - total // 2] * 2)
        return conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)

    x = norm(conv(frames_N3HW, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for number, stride in enumerate(LITE0_STRIDES):
        block, before = f"_blocks.{number}.", x
        if f"{block}_expand_conv.weight" in state:
            x = norm(conv(x, f"{block}_expand_conv"), f"{block}_bn0").clamp(0, 6)
        x = norm(conv(x, f"{block}_depthwise_conv", stride, depthwise=True), f"{block}_bn1")
        x = norm(conv(x.clamp(0, 6), f"{block}_project_conv"), f"{block}_bn2")
        x = x + before if number in LITE0_RESIDUAL else x
    x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
    return linear(x, state["_fc.weight"], state["_fc.bias"])


LITE0_STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
LITE0_RESIDUAL = {2, 4, 6, 7, 9, 10, 12, 13, 14}


@pytest.mark.parametrize("model", [None, "tsn_tf_efficientnet_lite0"])
def test_efficientnet_of_the_first_port_scores_as_itself(model: str | None, tmp_path: Path) -> None:
    made = awake(timm.create_model("tf_efficientnet_lite0", num_classes=6))
    state = port_names(made.state_dict())
    assert "_blocks.15._project_conv.weight" in state
    ours = scores_of_imported(tmp_path, under(state, "module."), CLIPS[:1], model=model)
    theirs = port_scores(state, CLIPS[0]).mean(0, keepdim=True)
    assert_same_scores(ours, theirs)


def test_efficientnet_that_pads_otherwise_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.device("meta"):
        meta = timm.create_model("tf_efficientnet_b0", num_classes=2).state_dict()
    state = port_names({name: torch.zeros(value.shape) for name, value in meta.items()})
    torch.save(state, tmp_path / "weights.pth")
    arguments = ["import-checkpoint", str(tmp_path / "weights.pth"), str(tmp_path / "out")]
    assert main([*arguments, "--model", "tsn_efficientnet_b0"]) == 3
    assert "pads as TensorFlow does: tsn_tf_efficientnet_b0" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["b0", "b1", "b2", "b4", "b7", "lite0", "lite1", "lite2", "lite4"])
def test_every_size_of_the_port_is_told_and_named_as_timm_names_it(size: str) -> None:
    with torch.device("meta"):
        wanted = timm.create_model(f"tf_efficientnet_{size}").state_dict()
    ported = port_names(wanted)
    assert efficientnet_size({name: tuple(value.shape) for name, value in ported.items()}) == size
    names = timm_efficientnet_names((name for name in ported if name[:4] != "_fc."), size)
    assert {ours: ported[theirs].shape for theirs, ours in names.items()} == {
        name: value.shape for name, value in wanted.items() if "classifier" not in name
    }


@pytest.mark.parametrize("model", [None, "tsn_r18", "tsn_test_resnet"])
@pytest.mark.parametrize("prefixes", [("encoder.",), ("model.", "ema_model."), ("visual.a.",)])
def test_unknown_prefix_is_named_and_model_is_asked_for_once(
    model: str | None, prefixes: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = resnet18(num_classes=3).state_dict()
    content = {key: value for prefix in prefixes for key, value in under(state, prefix).items()}
    torch.save(content, tmp_path / "weights.pth")
    arguments = ["import-checkpoint", str(tmp_path / "weights.pth"), str(tmp_path / "out")]
    assert main([*arguments, *(["--model", model] if model else [])]) == 3
    message = capsys.readouterr().err
    assert " or ".join(f"--prefix {prefix}" for prefix in prefixes) in message
    assert "--model" not in message
    assert main([*arguments, "--prefix", prefixes[0]]) == 0


@pytest.mark.parametrize("model", [None, "tsn_r18"])
def test_names_of_nobody_are_refused_with_advice_that_fits(
    model: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"stage.a.weight": torch.ones(2), "fc.weight": torch.ones(3, 2)}
    torch.save(state, tmp_path / "weights.pth")
    arguments = ["import-checkpoint", str(tmp_path / "weights.pth"), str(tmp_path / "out")]
    assert main([*arguments, *(["--model", model] if model else [])]) == 3
    message = capsys.readouterr().err
    assert ("Say which it is with --model" in message) == (model is None)
    assert ("its names are not those of tsn_r18: stage.a.weight" in message) == (model is not None)
