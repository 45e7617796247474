"""From a model's spec to the model, and to its shapes and cost without weights."""

from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.errors import ExperimentError
from common.models.frame_backbone import FrameBackbone
from common.models.recognizer import Recognizer
from common.models.tsn import TSN
from common.specs import ModelSpec


def build_model(spec: ModelSpec, *, num_classes: int) -> Recognizer:
    """Make a recognizer; its random weights come from torch's global generator.

    Raises:
        ExperimentError: If timm does not know the backbone or one of its arguments.
    """
    backbone = FrameBackbone(
        spec.backbone, pretrained=spec.pretrained, args=dict(spec.backbone_args)
    )
    return TSN(backbone, num_classes=num_classes, dropout=spec.dropout)


@dataclass(frozen=True, slots=True)
class Complexity:
    """Shapes and cost of a recognizer for one clip of T square frames."""

    feature_shape: tuple[int, int, int, int]
    """(T, C, h, w) of its feature map."""
    gmacs: float
    """Multiply-accumulate operations per clip, in 1e9."""
    parameters: int
    """Trainable numbers."""


def complexity(spec: ModelSpec, *, num_classes: int, num_frames: int, size: int) -> Complexity:
    """Count on the meta device: shapes only, no weights, no arithmetic.

    Args:
        spec: The model.
        num_classes: K.
        num_frames: T.
        size: Side of its frames in pixels.

    Raises:
        ExperimentError: If timm does not know the backbone or one of its arguments, or if it makes
            no feature map of such frames.
    """
    with torch.device("meta"), torch.no_grad():
        model = build_model(replace(spec, pretrained=False), num_classes=num_classes).eval()
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                output = model(torch.empty(1, num_frames, 3, size, size))
        except Exception as error:  # every family of timm refuses sizes in its own way
            raise ExperimentError(
                f"{spec.backbone} makes no feature map of {size} px frames "
                f"({type(error).__name__}: {error}). If it is a transformer made for one size, "
                f"set its backbone_args: {{img_size: {size}}}; else try another backbone or size."
            ) from error
    _, frames, channels, height, width = output.features_BTChw.shape
    return Complexity(
        feature_shape=(frames, channels, height, width),
        gmacs=counter.get_total_flops() / 2 / 1e9,  # the counter takes two operations per MAC
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
