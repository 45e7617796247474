"""A teacher's copy for one precision: in which type its layers keep and multiply numbers.

float16 and bfloat16 are a copy of the network in that type, not torch's autocast: what is rounded
is then the same on every device and in every version, namely all weights once and every layer's
output, while autocast goes by lists of operations that differ between CPU and CUDA. A copy is the
faster of the two, too: autocast casts the weights of a frozen network anew in every pass. Sums
inside an operation are float32 in both. BatchNorm keeps its statistics and weights in float32: a
variance above 65504 would become infinity and its channel silently zero.

tf32 rounds on CUDA what goes into products, and nothing else; the network stays float32. A CPU has
no such products and computes in float32.
"""

from copy import deepcopy
from functools import cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reskd.common.console import say
from reskd.common.experiment import Precision
from reskd.common.models.recognizer import Recognizer

HALF_TYPES: Final[dict[Precision, torch.dtype]] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Precisions that are a number type of their own; all others compute on float32 numbers."""
_CHANNELS_LAST: Final = {4: torch.channels_last, 5: torch.channels_last_3d}


def rounds_to_tf32(precision: Precision, device: torch.device) -> bool:
    """Whether products of float32 numbers are rounded; says once where they cannot be."""
    if precision == "tf32" and device.type != "cuda":
        _say_no_tf32(device.type)
    return precision == "tf32" and device.type == "cuda"


def in_precision(model: Recognizer, precision: Precision, device: torch.device) -> Recognizer:
    """The network on its device, in eval mode and frozen; a copy of it where numbers are halved.

    On CUDA its convolutions keep their weights in channels_last unless all is float32: tensor cores
    want feature maps so, and cuDNN gives them what the weights have. Networks of frames have it of
    their own (frame_backbone.py), everywhere; in float32 all others stay as they were, so that a
    cache from before is repaired to the same bytes.
    """
    half = HALF_TYPES.get(precision)
    own = model if half is None else _halved(deepcopy(model), half)
    own = own.to(device).eval().requires_grad_(requires_grad=False)
    if device.type == "cuda" and precision != "float32":
        _keep_channels_last(own)
    return own


def _keep_channels_last(model: Recognizer) -> None:
    for layer in model.modules():
        if isinstance(layer, _ConvNd) and layer.weight.ndim in _CHANNELS_LAST:
            order = _CHANNELS_LAST[layer.weight.ndim]
            layer.weight.data = layer.weight.data.contiguous(memory_format=order)


def _halved(model: Recognizer, half: torch.dtype) -> Recognizer:
    """The network itself in a half type, all but its BatchNorm layers."""
    exact = {
        layer: deepcopy(layer.state_dict())
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
    }
    model.to(half)
    for layer, state in exact.items():
        layer.float().load_state_dict(state)
    for module in model.modules():
        if isinstance(module, nn.AvgPool3d):
            module.register_forward_pre_hook(_widened_on_a_cpu)
            module.register_forward_hook(lambda _layer, _inputs, output: output.to(half))
    return model


def _widened_on_a_cpu(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """A CPU averages no float16 numbers over time; rounded afterwards it is the same."""
    (values,) = inputs
    return (values.float() if values.device.type == "cpu" else values,)


@cache
def _say_no_tf32(device_type: str) -> None:
    say(f"teacher.precision is tf32, which a {device_type} does not have: it computes in float32")
