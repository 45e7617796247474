"""TSM against a shift written out by hand."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from reskd.common.models.registry import complexity, meta_model
from reskd.common.models.temporal_shift import temporal_shift
from tests.common.models.networks import build, spec

SPEC = spec("tsm", "test_resnet")


def shift_by_hand(frames: Tensor, num_frames: int) -> Tensor:
    """Channel by channel and frame by frame."""
    count, channels = frames.shape[:2]
    moved = frames.clone()
    for row in range(count):
        time = row % num_frames
        for channel in range(2 * (channels // 8)):
            step = 1 if channel < channels // 8 else -1
            inside = 0 <= time + step < num_frames
            moved[row, channel] = frames[row + step, channel] if inside else 0.0
    return moved


class ShiftByHand(nn.Module):
    """A convolution behind the shift by hand."""

    def __init__(self, convolution: nn.Module, num_frames: int) -> None:
        super().__init__()
        self.convolution = convolution
        self.num_frames = num_frames

    def forward(self, frames: Tensor) -> Tensor:
        moved: Tensor = self.convolution(shift_by_hand(frames, self.num_frames))
        return moved


def test_temporal_shift_of_numbers_that_tell_their_place() -> None:
    # 2 clips of 3 frames, 16 channels: hundreds tell the frame of the batch, units the channel.
    frames = (torch.arange(6.0) * 100)[:, None] + torch.arange(16.0)
    shifted = temporal_shift(frames.view(6, 16, 1, 1), 3).view(6, 16)
    assert shifted[:, 0].tolist() == [100, 200, 0, 400, 500, 0]  # the next frame; none at an end
    assert shifted[:, 1].tolist() == [101, 201, 0, 401, 501, 0]
    assert shifted[:, 2].tolist() == [0, 2, 102, 0, 302, 402]  # the previous frame
    assert shifted[:, 3].tolist() == [0, 3, 103, 0, 303, 403]
    assert torch.equal(shifted[:, 4:], frames[:, 4:])


@pytest.mark.parametrize(("num_frames", "channels"), [(1, 16), (2, 8), (4, 21), (8, 7)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_temporal_shift_equals_the_one_by_hand(
    num_frames: int, channels: int, layout: torch.memory_format
) -> None:
    frames = torch.randn(8, channels, 3, 2).contiguous(memory_format=layout)
    before = frames.clone()
    shifted = temporal_shift(frames, num_frames)
    assert torch.equal(shifted, shift_by_hand(frames, num_frames))
    assert torch.equal(frames, before)
    assert shifted.stride() == frames.stride()


def test_temporal_shift_sends_gradients_back_where_values_came_from() -> None:
    frames = torch.randn(6, 16, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: temporal_shift(x, 3), frames)


@pytest.mark.parametrize("num_frames", [2, 5])
def test_tsm_is_tsn_with_a_shift_before_the_first_convolution_of_each_block(
    num_frames: int,
) -> None:
    model = build(SPEC)
    by_hand = build(spec("tsn", "test_resnet"))
    by_hand.load_state_dict(model.state_dict())  # strict: the same names
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for block in getattr(by_hand.backbone.model, stage):
            block.conv1 = ShiftByHand(block.conv1, num_frames)
    clips = torch.randn(2, num_frames, 3, 64, 64)
    with torch.no_grad():
        ours, expected = model(clips), by_hand(clips)
    torch.testing.assert_close(ours.features_BTChw, expected.features_BTChw)
    torch.testing.assert_close(ours.logits_BK, expected.logits_BK)  # of the mean, of each frame


def test_tsm_sees_other_frames_of_its_clip_and_of_no_other_clip() -> None:
    model = build(SPEC)
    clips = torch.randn(2, 3, 3, 64, 64)
    changed = clips.clone()
    changed[1, 0] = torch.randn(3, 64, 64)
    with torch.no_grad():
        before, after = model(clips).features_BTChw, model(changed).features_BTChw
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().amax(dim=(1, 2, 3)).gt(0).tolist() == [True, True, True]


def test_tsm_in_training_drops_from_every_frame_by_itself() -> None:
    model = build(SPEC).train()
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(torch.randn(2, 3, 3, 64, 64))
    assert [tuple(tensor.shape) for tensor in seen] == [(2, 3, 96)]


def test_tsm_copy_keeps_its_own_number_of_frames() -> None:
    model = build(SPEC)
    copy = deepcopy(model)
    clips = torch.randn(1, 4, 3, 64, 64)
    with torch.no_grad():
        expected = model(clips[:, :2]).logits_BK
        model(clips)  # notes four frames, for itself alone
        assert torch.equal(copy(clips[:, :2]).logits_BK, expected)


@pytest.mark.parametrize(
    ("backbone", "shifts"),
    [
        ("resnet50", 3 + 4 + 6 + 3),
        ("resnet101", 2 + 2 + 12 + 2),  # every second block from 23 blocks in layer3 on
        ("resnet152", 2 + 4 + 18 + 2),
    ],
)
def test_tsm_shifts_in_as_many_blocks_as_the_reference(backbone: str, shifts: int) -> None:
    model = meta_model(spec("tsm", backbone), num_classes=174)
    hooked = [name for name, module in model.named_modules() if module._forward_pre_hooks]
    assert len(hooked) == shifts
    assert all(name.endswith(".conv1") for name in hooked)
    assert "backbone.model.layer1.0.conv1" in hooked


def test_tsm_costs_what_tsn_costs_and_a_classifier_per_frame() -> None:
    tsm, tsn = (
        complexity(spec(kind, "resnet50"), num_classes=174, num_frames=8, size=112)
        for kind in ("tsm", "tsn")
    )
    assert tsm.parameters == tsn.parameters
    assert tsm.feature_shape == tsn.feature_shape
    assert (tsm.gmacs - tsn.gmacs) * 1e9 == pytest.approx(7 * 2048 * 174)
