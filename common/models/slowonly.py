"""SlowOnly: a 2D ResNet inflated to 3D, module by module; only late stages look along time."""

from collections.abc import Iterable
from typing import Any, Final

from timm.layers.drop import DropPath
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from reskd.common.errors import ExperimentError
from reskd.common.models.frame_backbone import FrameBackbone

TEMPORAL_STAGES: Final = ("layer3", "layer4")
"""Stages in which conv1 of every block spans three frames."""

_FRAMES = 3  # of a temporal kernel
_CONTAINERS = (nn.Sequential, BasicBlock, Bottleneck)  # their forward fits 5-D tensors as it is
_ELEMENTWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU, DropPath)
_PARTS = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")


class SlowOnlyBackbone(nn.Module):
    """A timm ResNet over time: clips (B, T, 3, H, W) to feature maps (B, T, C, h, w).

    Every module keeps its name, so weights differ from the 2D network's only in having a fifth
    dimension. Time is never subsampled. At layer3 and layer4 the first convolution of a block gets
    kernel (3, 1, 1) and zero padding in time, all other kernels stay within their frame.

    Args:
        frames: The 2D network. Its weights are taken over: repeated along time and divided by the
            kernel's length, so that frames that do not move give what the 2D network gives.

    Raises:
        ExperimentError: If it is not a plain ResNet.

    Source: Feichtenhofer et al. 2019, arXiv:1812.03982, the slow pathway; inflation (0, 0, 1, 1) as
    in the ResKD reference.
    """

    def __init__(self, frames: FrameBackbone) -> None:
        super().__init__()
        if type(frames.model) is not ResNet:
            raise _not_plain(type(frames.model).__name__, "the top")
        self.model = frames.model
        self.num_features = frames.num_features
        self.stage_names = frames.stage_names
        _inflate_children(self.model, _PARTS)

    def forward(self, clips_BT3HW: Tensor) -> Tensor:
        features_BCThw: Tensor = self.model.forward_features(clips_BT3HW.transpose(1, 2))
        return features_BCThw.transpose(1, 2)


def inflate_kernel(weight: Tensor, steps: int) -> Tensor:
    """(out, in, h, w) repeated `steps` times in time and divided by them: (out, in, t, h, w)."""
    return weight.unsqueeze(2).repeat(1, 1, steps, 1, 1) / steps


def _inflate_children(parent: nn.Module, names: Iterable[str], path: str = "") -> None:
    for name in names:
        place = f"{path}.{name}" if path else name
        module = getattr(parent, name)
        if type(module) in _CONTAINERS:
            _inflate_children(module, dict(module.named_children()), place)
        else:
            setattr(parent, name, _inflated(module, place))


def _inflated(module: Any, place: str) -> nn.Module:
    """The same layer for (B, C, T, h, w)."""
    kind = type(module)
    if kind is nn.Conv2d:
        spans_time = place.startswith(TEMPORAL_STAGES) and place.endswith(".conv1")
        return _inflated_convolution(module, _FRAMES if spans_time else 1)
    if kind is nn.BatchNorm2d:
        layer = nn.BatchNorm3d(module.num_features, module.eps, module.momentum)
        layer.to(module.weight)  # its type and device
        layer.load_state_dict(module.state_dict())
        return layer
    if kind in (nn.MaxPool2d, nn.AvgPool2d):
        places = {
            "kernel_size": _over_time(1, module.kernel_size),
            "stride": _over_time(1, module.stride),
            "padding": _over_time(0, module.padding),
            "ceil_mode": module.ceil_mode,
        }
        if kind is nn.MaxPool2d:
            return nn.MaxPool3d(**places)
        return nn.AvgPool3d(**places, count_include_pad=module.count_include_pad)
    if kind in _ELEMENTWISE:
        assert isinstance(module, nn.Module)
        return module
    raise _not_plain(kind.__name__, place)


def _inflated_convolution(conv: nn.Conv2d, kernel_frames: int) -> nn.Conv3d:
    assert not isinstance(conv.padding, str)
    layer = nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        _over_time(kernel_frames, conv.kernel_size),
        stride=_over_time(1, conv.stride),
        padding=_over_time(kernel_frames // 2, conv.padding),
        dilation=_over_time(1, conv.dilation),
        groups=conv.groups,
        bias=False,
        device="meta",  # weights of its own would only be drawn to be thrown away
    )
    layer.weight = nn.Parameter(inflate_kernel(conv.weight.detach().contiguous(), kernel_frames))
    layer.bias = conv.bias
    return layer


def _over_time(frames: int, size: int | tuple[int, ...]) -> tuple[int, int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return frames, height, width


def _not_plain(kind: str, place: str) -> ExperimentError:
    return ExperimentError(
        "slowonly inflates plain ResNets of timm (convolutions, BatchNorm and pooling in layer1 "
        f"to layer4); this backbone has a {kind} at {place}. Take one such as resnet50, resnet18 "
        "or resnext50_32x4d."
    )
