"""The networks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from reskd.common.experiment.values import STRICT, Fraction, ProperFraction, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A recognizer and the backbone inside it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    recognizer: Literal[
        "tsn", "tsm", "slowonly", "swin3d", "torchvision", "transformers", "python"
    ] = "tsn"
    """How frames become a clip's class scores. `reskd models list` shows what there is."""
    backbone: str = "resnet50"
    """Name of a timm model; for swin3d and torchvision of a video model of torchvision, for
    transformers of a family of that library: videomae, timesformer, vivit or vjepa2. For python
    `package.module:build` of your own, or an entry point (common/models/own_network.py)."""
    backbone_args: dict[str, Any] = field(default_factory=dict, hash=False)
    """Further arguments of timm.create_model or of torchvision's model, such as output_stride;
    for transformers fields of the family's config, for python those of your `build`."""
    pretrained: bool = False
    """Start from the weights timm or torchvision has under that name."""
    start: Path | None = None
    """Checkpoint directory of such a network to start from, as `reskd import-checkpoint` or an
    earlier run wrote it; its classifier is taken where the classes are as many. null: none."""
    dropout: ProperFraction = 0.5
    """Dropout before the classifier."""
    drop_path: ProperFraction = 0.0
    """Chance to skip the last residual branch in training, growing linearly from 0 at the first.
    A teacher that is cached or measured never skips any."""
    mean: tuple[Fraction, Fraction, Fraction] | None = None
    """What is taken from red, green and blue, of values from 0 to 1, before the network sees them.
    null: what its weights were trained with: those of `start`, else timm's or torchvision's."""
    std: tuple[Share, Share, Share] | None = None
    """What the rest is divided by; null as for `mean`."""

    @property
    def network(self) -> tuple[str, str, dict[str, Any]]:
        """Recognizer, backbone without the tag of its weights, and arguments: the same network."""
        tagged = self.recognizer != "python"
        backbone = self.backbone.partition(".")[0] if tagged else self.backbone
        return self.recognizer, backbone, self.backbone_args

    @property
    def code_names(self) -> tuple[str, ...]:
        """Names of the user's code in it."""
        return (self.backbone,) if self.recognizer == "python" else ()

    def __post_init__(self) -> None:
        if self.recognizer == "python" and (self.pretrained or self.drop_path):
            raise ValueError(
                "recognizer python has neither pretrained weights nor drop_path: your function "
                "makes the network; give it backbone_args, and name weights with start"
            )
        if self.start is not None and self.pretrained:
            raise ValueError("pretrained and start both name weights to start from; keep one")
        for name in ("drop_path_rate", "stochastic_depth_prob"):
            if self.drop_path and name in self.backbone_args:
                raise ValueError(f"drop_path and backbone_args.{name} say the same; keep one")
