"""TSN: a 2D backbone on every frame, averaged over frames before the classifier."""

from torch import Tensor, nn

from reskd.common.models.linear_recognizer import LinearRecognizer


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
        super().__init__(backbone, num_classes=num_classes, dropout=dropout, init_std=0.001)

    def features(self, clips_BT3HW: Tensor) -> Tensor:
        features_NChw: Tensor = self.backbone(clips_BT3HW.flatten(0, 1))
        batch, frames = clips_BT3HW.shape[:2]
        features_BTChw: Tensor = features_NChw.unflatten(0, (batch, frames))
        return features_BTChw
