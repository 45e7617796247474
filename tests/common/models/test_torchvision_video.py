"""Torchvision's video networks against torchvision itself; fetching their weights."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision.models import get_model

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.registry import build_model, complexity
from reskd.common.models.torchvision_video import TORCHVISION, TorchvisionBackbone
from tests.common.models.networks import SMALL_NETWORKS, BuiltNetwork, shrink_positions, spec


def test_small_networks_are_one_of_each() -> None:
    names = {network.spec.backbone for network in SMALL_NETWORKS}
    assert set(TORCHVISION) <= names


@pytest.mark.parametrize(
    "small",
    [network for network in SMALL_NETWORKS if network.spec.recognizer == "torchvision"],
    ids=lambda network: network.id,
    indirect=True,
)
def test_features_go_into_torchvisions_own_head_as_torchvision_has_it(small: BuiltNetwork) -> None:
    network, model = small
    name, backbone = network.spec.backbone, model.backbone
    assert isinstance(backbone, TorchvisionBackbone)
    with torch.device("meta"):  # the weights come from ours
        theirs = get_model(name, weights=None, num_classes=7).eval()
    theirs.to_empty(device="cpu")
    if name == "mvit_v1_b":
        shrink_positions(theirs)
    if name == "mvit_v2_s":
        theirs.pos_encoding.temporal_size, theirs.pos_encoding.spatial_size = 2, (8, 8)
    missing = theirs.load_state_dict(backbone.model.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith(TORCHVISION[name]) for key in missing.missing_keys)
    last: list[Any] = []
    end = {"fc": "layer4", "classifier": "features", "head": "norm"}[TORCHVISION[name]]
    getattr(theirs, end).register_forward_hook(lambda _, __, output: last.append(output))
    if name == "s3d":
        theirs.avgpool = torch.nn.AdaptiveAvgPool3d(1)  # its own wants 7 x 7 cells
    clips = network.clips()
    with torch.no_grad():
        ours = backbone(clips)
        theirs(clips.transpose(1, 2))
    expected = last[0] if end != "norm" else last[0][:, 1:].transpose(1, 2)
    torch.testing.assert_close(
        ours.transpose(1, 2).flatten(2), expected.flatten(2), rtol=1e-3, atol=1e-4
    )


def test_mvit_v1_of_other_clips_is_refused_saying_which_it_takes() -> None:
    with pytest.raises(ExperimentError, match="takes clips of 16 frames of 224x224 px"):
        complexity(spec("torchvision", "mvit_v1_b"), num_classes=3, num_frames=16, size=112)


def test_mvit_v2_takes_small_clips() -> None:
    cost = complexity(spec("torchvision", "mvit_v2_s"), num_classes=3, num_frames=8, size=112)
    assert cost.feature_shape == (4, 768, 4, 4)


def test_clip_too_short_for_a_network_is_refused_naming_it() -> None:
    with pytest.raises(ExperimentError, match="s3d makes no feature map of 112 px frames, 2 to a"):
        complexity(spec("torchvision", "s3d"), num_classes=3, num_frames=2, size=112)


@pytest.mark.parametrize(
    ("backbone", "file"),
    [("s3d", "s3d-d76dad2f.pth"), ("swin3d_t", "swin3d_t-7615ae03.pth")],
)
def test_weights_that_cannot_be_fetched_are_named_with_where_to_put_them(
    backbone: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocked(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", blocked)
    wanted = ModelSpec(
        recognizer="swin3d" if backbone == "swin3d_t" else "torchvision",
        backbone=backbone,
        pretrained=True,
    )
    with pytest.raises(ExperimentError, match="no route to host") as caught, torch.device("meta"):
        build_model(wanted, num_classes=3)
    assert file in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)


def test_weights_laid_where_told_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = get_model("s3d", weights=None).state_dict()
    place = tmp_path / "hub" / "checkpoints" / "s3d-d76dad2f.pth"
    place.parent.mkdir(parents=True)
    torch.save(theirs, place)
    wanted = ModelSpec(recognizer="torchvision", backbone="s3d", pretrained=True)
    ours = build_model(wanted, num_classes=3).state_dict()
    ours = {name: tensor for name, tensor in ours.items() if not name.startswith("classifier")}
    assert len(ours) == len(theirs) - 2
    assert all(
        torch.equal(tensor, theirs[name.removeprefix("backbone.model.")])
        for name, tensor in ours.items()
    )
    place.write_bytes(place.read_bytes()[:5000])
    with pytest.raises(ExperimentError, match="Cannot get the Kinetics-400 weights of s3d"):
        build_model(wanted, num_classes=3)
