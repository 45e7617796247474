"""TSN: a 2D backbone on every frame, averaged over frames before the classifier."""

from torch import Tensor, nn

from common.models.recognizer import ClipOutput, Recognizer


class TSN(Recognizer):
    """Temporal segment network.

    The consensus over frames is a mean of pooled features, taken before dropout and classifier.

    Args:
        backbone: From frames (N, 3, H, W) to feature maps (N, C, h, w), with `num_features` = C.
        num_classes: K.
        dropout: Chance to drop a pooled feature.

    Source: Wang et al. 2016, arXiv:1608.00859, section 3.1; head as in the ResKD reference.
    """

    def __init__(self, backbone: nn.Module, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = int(backbone.num_features)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        batch, frames = clips_BT3HW.shape[:2]
        features_NChw: Tensor = self.backbone(clips_BT3HW.flatten(0, 1))
        features_BTChw = features_NChw.unflatten(0, (batch, frames))
        pooled_BC = features_BTChw.mean(dim=(3, 4)).mean(dim=1)
        return ClipOutput(features_BTChw, self.classifier(self.dropout(pooled_BC)))

    def logit_map(self, features_BTChw: Tensor) -> Tensor:
        scores_BThwK: Tensor = self.classifier(features_BTChw.movedim(2, -1))
        return scores_BThwK
