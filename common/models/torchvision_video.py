"""Torchvision's video networks without their heads, as backbones for clips."""

from typing import Any, Final

from torch import Tensor, nn
from torchvision.models import get_model

from reskd.common.errors import ExperimentError
from reskd.common.models.kinetics_weights import load_kinetics_weights

_RESNET_HEAD, _S3D_HEAD, _MVIT_HEAD = "fc", "classifier", "head"
TORCHVISION: Final = {
    "r3d_18": _RESNET_HEAD,
    "mc3_18": _RESNET_HEAD,
    "r2plus1d_18": _RESNET_HEAD,
    "s3d": _S3D_HEAD,
    "mvit_v1_b": _MVIT_HEAD,
    "mvit_v2_s": _MVIT_HEAD,
}
"""Networks by name, and what each calls its classifier."""


class TorchvisionBackbone(nn.Module):
    """Clips (B, T, 3, H, W) to the feature map of the last stage, (B, T', C, h, w).

    Args:
        name: One of TORCHVISION.
        pretrained: Start from torchvision's Kinetics-400 weights.
        drop_path: Rate of stochastic depth at the last block; only the mvit networks have it.
        args: Further arguments of torchvision's builder.

    Raises:
        ExperimentError: If the name is unknown, an argument is refused or weights cannot be had.
            `forward` raises it when mvit_v1_b is given clips of another size than its own.
    """

    model: Any  # torchvision's networks share nn.Module, not their parts

    def __init__(
        self, name: str, *, pretrained: bool, drop_path: float, args: dict[str, Any]
    ) -> None:
        super().__init__()
        head = _head(name, drop_path)
        extra = {"stochastic_depth_prob": drop_path} if head == _MVIT_HEAD else {}
        try:
            self.model = get_model(name, weights=None, num_classes=1, **extra, **args)
        except Exception as error:  # torchvision checks few arguments, torch trips over the others
            raise ExperimentError(
                f"torchvision cannot make {name} with backbone_args: {args}: "
                f"{type(error).__name__}: {error}"
            ) from error
        self.num_features = int(next(getattr(self.model, head).parameters()).shape[1])
        delattr(self.model, head)
        if pretrained:
            load_kinetics_weights(self.model, name, head=f"{head}.")
        self._name = name
        self._is_mvit = head == _MVIT_HEAD
        self.stage_names = _stage_names(self.model, head)
        self._stages = ("stem", *self.stage_names) if head == _RESNET_HEAD else ("features",)

    def forward(self, clips_BT3HW: Tensor) -> Tensor:
        clips_B3THW = clips_BT3HW.transpose(1, 2)
        if self._is_mvit:
            return self._mvit_features(clips_B3THW)
        features_BCThw = clips_B3THW
        for stage in self._stages:
            features_BCThw = getattr(self.model, stage)(features_BCThw)
        return features_BCThw.transpose(1, 2)

    def _mvit_features(self, clips_B3THW: Tensor) -> Tensor:
        """As torchvision's forward, but all tokens are kept, laid out in time and space."""
        model = self.model
        if model.pos_encoding.spatial_pos is not None:
            self._require_own_size(clips_B3THW)
        patches_BCThw = model.conv_proj(clips_B3THW)
        # The grid there is. Relative positions (mvit_v2_s) are interpolated to it in every block.
        grid_Thw = tuple(patches_BCThw.shape[2:])
        tokens_BLC = model.pos_encoding(patches_BCThw.flatten(2).transpose(1, 2))
        for block in model.blocks:
            tokens_BLC, grid_Thw = block(tokens_BLC, grid_Thw)
        patches_BLC = model.norm(tokens_BLC)[:, 1:]  # without the class token
        features_BCThw: Tensor = patches_BLC.transpose(1, 2).unflatten(2, grid_Thw)
        return features_BCThw.transpose(1, 2)

    def _require_own_size(self, clips_B3THW: Tensor) -> None:
        """A learned position for every patch fixes how many patches there are."""
        encoding = self.model.pos_encoding
        grid = (encoding.temporal_size, *encoding.spatial_size)
        own = [cells * step for cells, step in zip(grid, self.model.conv_proj.stride, strict=True)]
        got = list(clips_B3THW.shape[2:])
        if got != own:
            raise ExperimentError(
                f"{self._name} takes clips of {own[0]} frames of {own[1]}x{own[2]} px and no "
                f"others, got {got[0]} frames of {got[1]}x{got[2]} px. Give it such clips, or take "
                "mvit_v2_s, whose positions are relative."
            )


def _head(name: str, drop_path: float) -> str:
    if name not in TORCHVISION:
        raise ExperimentError(
            f"recognizer torchvision has the backbones {', '.join(TORCHVISION)}; got {name!r}."
        )
    head = TORCHVISION[name]
    if drop_path and head != _MVIT_HEAD:
        raise ExperimentError(
            f"{name} has no stochastic depth, so drop_path must be 0, got {drop_path}."
        )
    return head


def _stage_names(model: Any, head: str) -> tuple[str, ...]:
    if head == _RESNET_HEAD:
        return ("layer1", "layer2", "layer3", "layer4")
    inside = "features" if head == _S3D_HEAD else "blocks"
    return tuple(f"{inside}.{name}" for name, _ in getattr(model, inside).named_children())
