"""Video Swin: torchvision's network without its head, as a backbone for clips."""

from typing import Any, Final

from torch import Tensor, nn
from torchvision.models.video import SwinTransformer3d

from reskd.common.errors import ExperimentError
from reskd.common.models.kinetics_weights import load_kinetics_weights

SWIN3D: Final[dict[str, dict[str, Any]]] = {
    "swin3d_t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "swin3d_s": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
    "swin3d_b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
}
"""Sizes by name. All cut patches of 2 frames x 4 x 4 px."""

WINDOW: Final = (8, 7, 7)
"""Frames, rows, columns of an attention window, in patches."""


class Swin3DBackbone(nn.Module):
    """Clips (B, T, 3, H, W) to the map after the last LayerNorm, (B, ceil(T/2), C, h, w).

    Any number of frames of any size will do: axes are padded to whole patches and windows, and a
    window shrinks to an axis that is shorter. A window that shrank in height or width (stage 4 at
    112 px: 4 of 7 cells) takes the first rows and columns of the table of relative positions, which
    are not those of its true geometry. Published weights were trained so, and so it stays.

    Args:
        name: swin3d_t, swin3d_s or swin3d_b.
        pretrained: Start from torchvision's Kinetics-400 weights.
        drop_path: Rate of stochastic depth at the last block; it grows linearly from 0.
        args: Further or other arguments of torchvision's SwinTransformer3d.

    Raises:
        ExperimentError: If the name is unknown, an argument is refused or weights cannot be had.

    Source: Liu et al. 2022, arXiv:2106.13230.
    """

    def __init__(
        self, name: str, *, pretrained: bool, drop_path: float, args: dict[str, Any]
    ) -> None:
        super().__init__()
        if name not in SWIN3D:
            raise ExperimentError(
                f"recognizer swin3d has the backbones {', '.join(SWIN3D)}; got {name!r}."
            )
        shared = {"patch_size": [2, 4, 4], "window_size": list(WINDOW)}
        try:
            self.model = SwinTransformer3d(
                **{**shared, **SWIN3D[name], **args},
                stochastic_depth_prob=drop_path,
                num_classes=1,
            )
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise ExperimentError(
                f"torchvision cannot make {name} with backbone_args: {args}: "
                f"{type(error).__name__}: {error}"
            ) from error
        del self.model.head, self.model.avgpool
        if pretrained:
            load_kinetics_weights(self.model, name, head="head.")
        self.num_features = int(self.model.num_features)
        # Odd places of `features` merge patches between two stages.
        self.stage_names = tuple(f"features.{i}" for i in range(0, len(self.model.features), 2))

    def forward(self, clips_BT3HW: Tensor) -> Tensor:
        model = self.model
        patches_BThwC = model.pos_drop(model.patch_embed(clips_BT3HW.transpose(1, 2)))
        features_BThwC: Tensor = model.norm(model.features(patches_BThwC))
        return features_BThwC.movedim(-1, 2)
