"""SlowOnly against the 2D network it is inflated from."""

import pytest
import torch

from reskd.common.models.frame_backbone import FrameBackbone
from reskd.common.models.registry import complexity, meta_model
from reskd.common.models.slowonly import SlowOnlyBackbone
from tests.common.models.networks import build, spec

SPECS = {
    "basic": spec("slowonly", "test_resnet"),
    "bottleneck": spec("slowonly", "resnet26", layers=[1, 1, 1, 1]),
    "averaging": spec("slowonly", "resnet26d", layers=[1, 1, 1, 1]),  # AvgPool2d in the shortcut
    "dilated": spec("slowonly", "resnet26", layers=[1, 1, 1, 1], output_stride=16),
}
TEMPORAL_LAYERS = 2
"""Convolutions along time in each of them: one in layer3, one in layer4."""


@pytest.mark.parametrize("kind", SPECS)
def test_slowonly_of_a_still_clip_is_the_2d_network_where_padding_does_not_reach(
    kind: str,
) -> None:
    wanted = SPECS[kind]
    flat = build(spec("tsn", wanted.backbone, **wanted.backbone_args)).double().backbone
    frames = FrameBackbone(wanted.backbone, pretrained=False, args=dict(wanted.backbone_args))
    frames.double().load_state_dict(flat.state_dict())
    deep = SlowOnlyBackbone(frames).eval()
    frame = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        still = deep(frame[:, None].expand(-1, 7, -1, -1, -1))
        expected = flat(frame)[:, None]
    assert still.shape == (2, 7, *expected.shape[2:])
    inner = still[:, TEMPORAL_LAYERS:-TEMPORAL_LAYERS]
    torch.testing.assert_close(inner, expected.expand_as(inner), rtol=1e-10, atol=1e-10)
    # Zeros come in at both ends, so there it must differ.
    for time in (0, 1, -2, -1):
        assert (still[:, time] - expected[:, 0]).abs().max() > 1e-6


def test_slowonly_weights_keep_their_names_and_add_up_to_the_2d_weights() -> None:
    wanted = SPECS["bottleneck"]
    frames = FrameBackbone(wanted.backbone, pretrained=False, args=dict(wanted.backbone_args))
    flat = {name: tensor.clone() for name, tensor in frames.state_dict().items()}
    deep = SlowOnlyBackbone(frames).state_dict()
    assert list(deep) == list(flat)
    for name, tensor in flat.items():
        if tensor.ndim == 4:
            torch.testing.assert_close(deep[name].sum(dim=2), tensor)
            assert torch.equal(deep[name], deep[name][:, :, :1].expand_as(deep[name]))
        else:
            assert torch.equal(deep[name], tensor)


def test_slowonly_sees_the_order_of_frames() -> None:
    model = build(SPECS["bottleneck"])
    clips = torch.randn(1, 4, 3, 64, 64)
    with torch.no_grad():
        forward, backward = (model(clip).features_BTChw for clip in (clips, clips.flip(1)))
        assert (forward.mean(dim=1) - backward.mean(dim=1)).abs().max() < 1e-4  # still symmetric
        weight = model.get_parameter("backbone.model.layer4.0.conv1.weight")
        weight[:, :, 0] *= 2.0
        forward, backward = (model(clip).features_BTChw for clip in (clips, clips.flip(1)))
        assert (forward.mean(dim=1) - backward.mean(dim=1)).abs().max() > 1e-3


def test_slowonly_r50_has_the_shapes_of_the_reference() -> None:
    model = meta_model(spec("slowonly", "resnet50"), num_classes=400)
    shapes = {
        name.removeprefix("backbone.model."): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
    }
    assert shapes["conv1.weight"] == (64, 3, 1, 7, 7)
    widths = {1: 64, 2: 128, 3: 256, 4: 512}
    for stage, blocks in {1: 3, 2: 4, 3: 6, 4: 3}.items():
        width, frames = widths[stage], 3 if stage > 2 else 1
        for block in range(blocks):
            wide_in = 64 if (stage, block) == (1, 0) else width * (2 if block == 0 else 4)
            place = f"layer{stage}.{block}"
            assert shapes[f"{place}.conv1.weight"] == (width, wide_in, frames, 1, 1)
            assert shapes[f"{place}.conv2.weight"] == (width, width, 1, 3, 3)
            assert shapes[f"{place}.conv3.weight"] == (4 * width, width, 1, 1, 1)
    assert shapes["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1, 1)
    assert shapes["classifier.weight"] == (400, 2048)


def test_slowonly_r50_of_small_frames_costs_as_published() -> None:
    cost = complexity(spec("slowonly", "resnet50"), num_classes=400, num_frames=8, size=112)
    assert cost.feature_shape == (8, 2048, 4, 4)
    assert cost.gmacs == pytest.approx(11.0, abs=0.05)
