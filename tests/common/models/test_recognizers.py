"""What every recognizer promises, tried on a small one of each kind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers.drop import DropPath

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.checkpoint import load_checkpoint, save_checkpoint
from reskd.common.models.registry import build_model, meta_model
from tests.common.models.networks import SMALL_NETWORKS, BuiltNetwork, SmallNetwork, build, spec


def test_recognizer_scores_each_clip_by_itself_and_always_the_same(small: BuiltNetwork) -> None:
    network, model = small
    clips = network.clips(batch=2)
    with torch.no_grad():
        features, logits = model(clips)
        alone = model(clips[1:])
        again = model(clips)
    assert features.shape == (2, *network.feature_shape)
    assert logits.shape == (2, 5)
    assert model.num_features == network.feature_shape[1]
    assert torch.equal(again.logits_BK, logits)
    assert torch.equal(again.features_BTChw, features)
    torch.testing.assert_close(alone.features_BTChw, features[1:], rtol=1e-4, atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 1e-4 * logits.abs().max()


def test_recognizer_logits_are_its_logit_map_averaged(small: BuiltNetwork) -> None:
    network, model = small
    with torch.no_grad():
        features, logits = model(network.clips())
        scores = model.logit_map(features)
    steps, _, height, width = network.feature_shape
    assert scores.shape == (1, steps, height, width, 5)
    torch.testing.assert_close(scores.mean(dim=(1, 2, 3)), logits, rtol=1e-4, atol=1e-5)


def test_recognizer_learns_with_every_parameter(small: BuiltNetwork) -> None:
    network, model = small
    model.zero_grad()
    model(network.clips()).logits_BK.square().sum().backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert still == []
    model.zero_grad()


def test_recognizer_names_stages_that_it_has(small: BuiltNetwork) -> None:
    _, model = small
    modules = dict(model.named_modules())
    assert len(model.stage_names) >= 4
    assert all(f"backbone.model.{name}" in modules for name in model.stage_names)
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "classifier"}


@pytest.mark.parametrize(
    "network", SMALL_NETWORKS[:4], ids=[network.id for network in SMALL_NETWORKS[:4]]
)
def test_recognizer_from_its_checkpoint_predicts_as_before(
    network: SmallNetwork, tmp_path: Path
) -> None:
    model, clips = build(network.spec), network.clips()
    save_checkpoint(
        tmp_path,
        model,
        role="teacher",
        spec=network.spec,
        size=network.size,
        classes=("a", "b", "c", "d", "e"),
        experiment={},
    )
    again, info = load_checkpoint(tmp_path)
    colours = model.colours
    assert info.model == replace(network.spec, mean=colours.mean, std=colours.std)
    with torch.no_grad():
        assert torch.equal(again(clips).logits_BK, model(clips).logits_BK)


@pytest.mark.parametrize(
    ("recognizer", "std"), [("tsn", 0.001), ("tsm", 0.001), ("slowonly", 0.01)]
)
def test_classifier_starts_as_in_the_reference(recognizer: str, std: float) -> None:
    model = build_model(spec(recognizer, "test_resnet"), num_classes=1500)
    assert model.get_parameter("classifier.weight").std().item() == pytest.approx(std, rel=0.02)
    assert not model.get_parameter("classifier.bias").any()


@pytest.mark.parametrize(
    ("backbone", "args", "size", "shape"),
    [
        ("mobilenetv4_conv_small", {}, 112, (2, 960, 4, 4)),
        ("efficientnet_b0", {}, 112, (2, 1280, 4, 4)),
        ("convnext_atto", {}, 112, (2, 320, 3, 3)),
        ("vit_tiny_patch16_224", {"img_size": 112}, 112, (2, 192, 7, 7)),
    ],
)
def test_frames_of_any_family_of_timm_go_through_tsn(
    backbone: str, args: dict[str, int], size: int, shape: tuple[int, ...]
) -> None:
    model = meta_model(spec("tsn", backbone, **args), num_classes=4)
    with torch.device("meta"), torch.no_grad():
        output = model(torch.empty(3, 2, 3, size, size))
    assert output.features_BTChw.shape == (3, *shape)
    assert output.logits_BK.shape == (3, 4)
    assert model.stage_names


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (spec("swin3d", "resnet50"), "swin3d has the backbones swin3d_t, swin3d_s, swin3d_b"),
        (spec("torchvision", "swin3d_t"), "torchvision has the backbones r3d_18"),
        (spec("swin3d", "swin3d_t", no_such=1), "cannot make swin3d_t with backbone_args"),
        (spec("torchvision", "s3d", num_classes=3), "cannot make s3d with backbone_args"),
        (spec("tsm", "test_vit"), "a VisionTransformer does not have"),
        (spec("tsm", "test_efficientnet"), "a EfficientNet does not have"),
        (spec("slowonly", "test_efficientnet"), "has a EfficientNet at the top"),
        (spec("slowonly", "seresnet50"), r"has a SEModule at layer1\.0\.se"),
        (
            ModelSpec(recognizer="torchvision", backbone="s3d", drop_path=0.1),
            "s3d has no stochastic depth",
        ),
        (ModelSpec(backbone="resnet_no", drop_path=0.1), "timm knows no model 'resnet_no'"),
    ],
)
def test_backbone_that_does_not_fit_its_recognizer_is_refused(
    wrong: ModelSpec, message: str
) -> None:
    with pytest.raises(ExperimentError, match=message):
        meta_model(wrong, num_classes=3)


def test_drop_path_reaches_the_backbone_of_frames() -> None:
    model = meta_model(ModelSpec(backbone="test_resnet", drop_path=0.3), num_classes=3)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates[-1] == pytest.approx(0.3)


def test_drop_path_said_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_path and backbone_args\.drop_path_rate"):
        ModelSpec(drop_path=0.1, backbone_args={"drop_path_rate": 0.1})
