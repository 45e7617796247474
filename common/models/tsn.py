"""TSN: a 2D network on every frame, and the average over frames."""

from typing import Final

from torch import Tensor, nn

from reskd.common.models.frame_backbone import FrameBackbone
from reskd.common.models.linear_recognizer import LinearRecognizer
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.common.models.timm_head import TimmHead, mean_of_frames, scores_of

INIT_STD: Final = 0.001
"""Standard deviation of a classifier's first weights."""


class TSN(LinearRecognizer):
    """Temporal segment network.

    The consensus over frames is a mean of pooled features, taken before dropout and classifier.

    Args:
        backbone: From frames (N, 3, H, W) to feature maps (N, C, h, w), with `num_features` = C.
        num_classes: K.
        dropout: Chance to drop a pooled feature.

    Source: Wang et al. 2016, arXiv:1608.00859, section 3.1; head as in the ResKD reference.
    """

    def __init__(self, backbone: nn.Module, *, num_classes: int, dropout: float) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout, init_std=INIT_STD)

    def features(self, clips_BT3HW: Tensor) -> Tensor:
        features_NChw: Tensor = self.backbone(clips_BT3HW.flatten(0, 1))
        batch, frames = clips_BT3HW.shape[:2]
        features_BTChw: Tensor = features_NChw.unflatten(0, (batch, frames))
        return features_BTChw


class OwnHeadTSN(Recognizer):
    """TSN of a model that classifies in a way of its own: class token, hidden layers, a maximum.

    The consensus over frames is a mean of features where the head makes no difference of it (then
    dropout drops a clip's features, not a frame's, as in `TSN`), else a mean of scores.

    Args:
        backbone: A timm model with its head, made for K classes.
        head: What is known of that head.
    """

    gives_logit_map = False

    def __init__(self, backbone: FrameBackbone, head: TimmHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = backbone.num_features
        self.stage_names = backbone.stage_names
        self._head = head
        for name in head.classifier:
            tensor = backbone.model.get_parameter(name)
            nn.init.normal_(tensor, std=INIT_STD) if tensor.ndim > 1 else nn.init.zeros_(tensor)

    @property
    def classifier_tensors(self) -> frozenset[str]:
        return frozenset(f"backbone.model.{name}" for name in self._head.classifier)

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        batch, frames = clips_BT3HW.shape[:2]
        features = self.backbone.raw_features(clips_BT3HW.flatten(0, 1))
        features_BTChw = self.backbone.feature_map(features).unflatten(0, (batch, frames))
        model = self.backbone.model
        if self._head.linear_over_frames:
            return ClipOutput(features_BTChw, scores_of(model, mean_of_frames(features, frames)))
        scores_BTK = scores_of(model, features).unflatten(0, (batch, frames))
        return ClipOutput(features_BTChw, scores_BTK.mean(dim=1))
