"""TSM: a 2D ResNet whose blocks look at the neighbouring frames through shifted channels."""

from typing import Any

import torch
from torch import Tensor, nn

from reskd.common.errors import ExperimentError
from reskd.common.models.tsn import TSN

SHIFT_DIV = 8  # an eighth of the channels looks ahead, another eighth looks back
_MANY_BLOCKS = 23  # from this depth of layer3 on (ResNet-101) every second block shifts


def temporal_shift(frames_NChw: Tensor, num_frames: int) -> Tensor:
    """Move an eighth of the channels one frame earlier and another eighth one frame later.

    Args:
        frames_NChw: Feature maps of N = B * num_frames frames, clip after clip.
        num_frames: T, frames of a clip.

    Returns:
        A new tensor: channels [0, C//8) hold those of the next frame, [C//8, 2*(C//8)) those of the
        previous one, the others are as they were. At the ends of a clip zeros come in; nothing
        crosses from clip to clip.

    Source: Lin, Gan, Han 2019, arXiv:1811.08383, section 4; directions as in the ResKD reference.
    """
    fold = frames_NChw.shape[1] // SHIFT_DIV
    shifted_NChw = torch.zeros_like(frames_NChw)
    old_BTChw = frames_NChw.unflatten(0, (-1, num_frames))
    new_BTChw = shifted_NChw.unflatten(0, (-1, num_frames))
    new_BTChw[:, :-1, :fold] = old_BTChw[:, 1:, :fold]
    new_BTChw[:, 1:, fold : 2 * fold] = old_BTChw[:, :-1, fold : 2 * fold]
    new_BTChw[:, :, 2 * fold :] = old_BTChw[:, :, 2 * fold :]
    return shifted_NChw


class TSM(TSN):
    """Temporal shift module: TSN with a shift before the first convolution of residual branches.

    Parameters are named as in TSN, so weights of the one load into the other. Unlike TSN, dropout
    and classifier see every frame and the class scores are averaged; in eval mode that is the same.

    Args:
        backbone: A `FrameBackbone` of a timm model with layer1 to layer4 made of blocks that begin
            with conv1: ResNet, ResNeXt, SE-ResNet and their like.
        num_classes: K.
        dropout: Chance to drop a pooled feature of a frame.

    Raises:
        ExperimentError: If the backbone is built otherwise.

    Source: Lin, Gan, Han 2019, arXiv:1811.08383; head as in the ResKD reference's TSMHead.
    """

    def __init__(self, backbone: nn.Module, *, num_classes: int, dropout: float) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        self._shift = _ShiftBefore()
        for conv in _shifted_convolutions(backbone.model):
            conv.register_forward_pre_hook(self._shift)

    def features(self, clips_BT3HW: Tensor) -> Tensor:
        self._shift.num_frames = clips_BT3HW.shape[1]
        return super().features(clips_BT3HW)

    def classify(self, features_BTChw: Tensor) -> Tensor:
        pooled_BTC = features_BTChw.mean(dim=(3, 4))
        logits_BTK: Tensor = self.classifier(self.dropout(pooled_BTC))
        return logits_BTK.mean(dim=1)


class _ShiftBefore:
    """A hook that shifts what goes into a layer.

    A layer sees B * T frames and cannot tell B from T, so the recognizer notes T before every pass.
    A hook, since a wrapping module would rename the layer's weights. An object, since a deep copy
    of the network (a moving average of its weights) must get a note of its own.
    """

    num_frames = 1

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return temporal_shift(inputs[0], self.num_frames)


def _shifted_convolutions(model: Any) -> list[nn.Module]:
    """The first convolution of every block, of every second one in deep networks."""
    stages = [list(getattr(model, f"layer{number}", ())) for number in (1, 2, 3, 4)]
    if not all(stages) or not all(hasattr(block, "conv1") for stage in stages for block in stage):
        raise ExperimentError(
            "tsm shifts before conv1 of every block in layer1 to layer4, which a "
            f"{type(model).__name__} does not have. Take a backbone such as resnet50, "
            "resnext50_32x4d or seresnet50, or recognizer: tsn."
        )
    step = 2 if len(stages[2]) >= _MANY_BLOCKS else 1
    return [block.conv1 for stage in stages for block in stage[::step]]
