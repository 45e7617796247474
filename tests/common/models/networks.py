"""Small recognizers for tests, one of each kind, and clips they take."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import PositionalEncoding

from reskd.common.experiment import ModelSpec
from reskd.common.models.linear_recognizer import LinearRecognizer
from reskd.common.models.registry import build_model


def spec(recognizer: str, backbone: str, **backbone_args: Any) -> ModelSpec:
    return ModelSpec(
        recognizer=recognizer,  # type: ignore[arg-type]
        backbone=backbone,
        backbone_args=backbone_args,
    )


@dataclass(frozen=True, slots=True)
class SmallNetwork:
    """A recognizer that runs in a moment, and what it makes of its clips."""

    id: str
    spec: ModelSpec
    num_frames: int
    size: int
    feature_shape: tuple[int, int, int, int]

    def clips(self, batch: int = 1) -> Tensor:
        return torch.randn(batch, self.num_frames, 3, self.size, self.size)


BuiltNetwork = tuple[SmallNetwork, LinearRecognizer]

TINY_SWIN = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4]}

SMALL_NETWORKS = [
    SmallNetwork("tsn", spec("tsn", "test_resnet"), 3, 64, (3, 96, 2, 2)),
    SmallNetwork("tsm", spec("tsm", "test_resnet"), 3, 64, (3, 96, 2, 2)),
    SmallNetwork("slowonly", spec("slowonly", "test_resnet"), 3, 64, (3, 96, 2, 2)),
    SmallNetwork("swin3d", spec("swin3d", "swin3d_t", **TINY_SWIN), 6, 40, (3, 64, 2, 2)),
    SmallNetwork("r3d_18", spec("torchvision", "r3d_18"), 9, 32, (2, 512, 2, 2)),
    SmallNetwork("mc3_18", spec("torchvision", "mc3_18"), 3, 32, (3, 512, 2, 2)),
    SmallNetwork("r2plus1d_18", spec("torchvision", "r2plus1d_18"), 9, 32, (2, 512, 2, 2)),
    SmallNetwork("s3d", spec("torchvision", "s3d"), 16, 64, (2, 1024, 2, 2)),
    SmallNetwork("mvit_v1_b", spec("torchvision", "mvit_v1_b"), 4, 32, (2, 768, 1, 1)),
    SmallNetwork("mvit_v2_s", spec("torchvision", "mvit_v2_s"), 4, 32, (2, 768, 1, 1)),
]


def build(model: ModelSpec, *, num_classes: int = 5) -> LinearRecognizer:
    """In eval mode; what starts at zero, such as the last BatchNorm of a block, is awake."""
    network = build_model(model, num_classes=num_classes).eval()
    assert isinstance(network, LinearRecognizer)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, mean=0.5, std=0.2)
    if model.backbone == "s3d":  # with torch's default weights, which it has, signals fade
        for parameter in network.get_submodule("backbone").parameters():
            if parameter.ndim == 5:
                nn.init.kaiming_normal_(parameter)
    if model.backbone == "mvit_v1_b":
        shrink_positions(network.get_submodule("backbone.model"))
    return network


def shrink_positions(mvit: Any) -> None:
    """Make a MViT for 4 frames of 32 px of one for 16 frames of 224 px."""
    mvit.pos_encoding = PositionalEncoding(96, (8, 8), 2, rel_pos_embed=False)
    for position in mvit.pos_encoding.parameters():
        nn.init.normal_(position)
