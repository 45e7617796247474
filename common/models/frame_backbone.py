"""Any timm model as a network from frames to feature maps."""

from difflib import get_close_matches
from math import isqrt
from typing import Any

import timm
import torch
from torch import Tensor, nn

from reskd.common.errors import ExperimentError


class FrameBackbone(nn.Module):
    """A timm model without its classifier; frames (N, 3, H, W) to feature maps (N, C, h, w)."""

    model: Any  # timm's models share methods, not a base class

    def __init__(self, name: str, *, pretrained: bool, args: dict[str, Any]) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = ", ".join(get_close_matches(name, timm.list_models(), n=5))
            raise ExperimentError(
                f"timm knows no model {name!r}. Some that sound like it: {near or 'none'}; "
                "`python -c 'import timm; print(timm.list_models())'` lists all."
            )
        try:
            self.model = timm.create_model(
                name, pretrained=pretrained, num_classes=0, global_pool="", **args
            )
            self.num_features = int(self.model.num_features)
            self.stage_names = _stage_names(self.model)
            # Channels last: convolutions run up to half as fast again on CPU and GPU alike.
            self.model.to(memory_format=torch.channels_last)
        except Exception as error:  # timm refuses arguments with whatever comes to hand
            hint = _where_weights_go(name, args) if pretrained else ""
            raise ExperimentError(
                f"timm cannot make {name} as a feature map with pretrained: {pretrained} and "
                f"backbone_args: {args}: {type(error).__name__}: {error}{hint}"
            ) from error

    def forward(self, frames_N3HW: Tensor) -> Tensor:
        frames_N3HW = frames_N3HW.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.model.forward_features(frames_N3HW)
        if features.ndim == 3:
            return self._map_from_tokens(features)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features

    def _map_from_tokens(self, tokens_NLC: Tensor) -> Tensor:
        """Vision transformers: drop class and register tokens, lay the patches out again."""
        patches_NLC = tokens_NLC[:, getattr(self.model, "num_prefix_tokens", 0) :]
        count, length, channels = patches_NLC.shape
        side = isqrt(length)  # frames are square, so the grid is
        return patches_NLC.transpose(1, 2).reshape(count, channels, side, side)


def _stage_names(model: Any) -> tuple[str, ...]:
    """Where timm says its stages end; some of its models name modules they do not have."""
    modules = dict(model.named_modules())
    named = (stage.get("module") for stage in getattr(model, "feature_info", ()))
    return tuple(name for name in named if name in modules)


def _where_weights_go(name: str, args: dict[str, Any]) -> str:
    """What to do where weights cannot be fetched: which file is wanted, and who reads it."""
    tag = args.get("pretrained_cfg")
    full_name = f"{name}.{tag}" if isinstance(tag, str) else name
    config = timm.get_pretrained_cfg(full_name)
    source = "its weights" if config is None else f"model.safetensors of timm/{full_name}"
    if config is not None and not isinstance(tag, str) and config.tag:
        source += f".{config.tag}"
    return (
        f"\nWhere its weights cannot be fetched, download {source} elsewhere and name the file: "
        "backbone_args: {pretrained_cfg_overlay: {file: PATH}}. Or set pretrained: false."
    )
