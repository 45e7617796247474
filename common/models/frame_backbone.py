"""Any timm model as a network from frames to features, with its own head or without it."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from reskd.common.console import quiet
from reskd.common.errors import ExperimentError
from reskd.common.models.timm_head import RawFeatures, TimmHead, map_of_features, timm_head

HEADLESS: Final[Mapping[str, Any]] = {"num_classes": 0, "global_pool": ""}
"""Settings of timm.create_model that leave the classifier out, and the pooling before it."""


class FrameBackbone(nn.Module):
    """A timm model; frames (N, 3, H, W) to feature maps (N, C, h, w).

    Args:
        name: Of the model, perhaps with the tag of its weights.
        pretrained: Start from the weights timm has under that name.
        args: Further arguments of timm.create_model.
        settings: Those that decide about the head.

    Raises:
        ExperimentError: If timm cannot make it so.
    """

    model: Any  # timm's models share methods, not a base class

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool,
        args: dict[str, Any],
        settings: Mapping[str, Any] = HEADLESS,
    ) -> None:
        super().__init__()
        _require_model(name)
        try:
            with quiet("huggingface_hub", "timm", "urllib3"):  # a paragraph of ours follows
                self.model = timm.create_model(name, pretrained=pretrained, **settings, **args)
            self.num_features = int(self.model.num_features)
            self.stage_names = _stage_names(self.model)
            # Channels last: convolutions run up to half as fast again on CPU and GPU alike.
            self.model.to(memory_format=torch.channels_last)
        except Exception as error:  # timm refuses arguments with whatever comes to hand
            hint = _where_weights_go(name, args) if pretrained else ""
            raise ExperimentError(
                f"timm cannot make {name} with pretrained: {pretrained} and "
                f"backbone_args: {args}: {type(error).__name__}: {error}{hint}"
            ) from error

    def forward(self, frames_N3HW: Tensor) -> Tensor:
        return self.feature_map(self.raw_features(frames_N3HW))

    def raw_features(self, frames_N3HW: Tensor) -> RawFeatures:
        """What the model hands to its own head."""
        frames_N3HW = frames_N3HW.contiguous(memory_format=torch.channels_last)
        return self.model.forward_features(frames_N3HW)

    def feature_map(self, features: RawFeatures) -> Tensor:
        """Raw features as a map (N, C, h, w); (N, 0, 0, 0) where they are none."""
        features_NChw = map_of_features(self.model, features)
        if features_NChw is None:
            first = features if isinstance(features, Tensor) else features[0]
            return first.new_empty(len(first), 0, 0, 0)
        return features_NChw


def head_of(name: str, args: dict[str, Any]) -> TimmHead:
    """How a timm model classifies.

    Raises:
        ExperimentError: If there is none of that name, it refuses an argument or cannot classify.
    """
    _require_model(name)
    try:
        return timm_head(name, args)
    except Exception as error:  # timm refuses arguments with whatever comes to hand
        raise ExperimentError(
            f"timm cannot make {name} as a classifier of frames with backbone_args: {args}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _require_model(name: str) -> None:
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=5))
        raise ExperimentError(
            f"timm knows no model {name!r}. Some that sound like it: {near or 'none'}; "
            "`python -c 'import timm; print(timm.list_models())'` lists all."
        )
    architecture, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        raise ExperimentError(
            f"timm knows no weights {tag!r} of {architecture}; it has {', '.join(tags) or 'none'}."
        )


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
        f" Where its weights cannot be fetched, download {source} elsewhere and name the file: "
        "backbone_args: {pretrained_cfg_overlay: {file: PATH}}. Or set pretrained: false."
    )
