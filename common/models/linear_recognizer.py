"""What all recognizers of ours share: a backbone, an average, dropout and one linear layer."""

from torch import Tensor, nn

from reskd.common.models.recognizer import ClipOutput, Recognizer


class LinearRecognizer(Recognizer):
    """A backbone for clips; its features averaged over time and space are classified linearly.

    Args:
        backbone: From clips (B, T, 3, H, W) to feature maps (B, T', C, h, w), with `num_features`
            = C and, for listings, `stage_names`.
        num_classes: K.
        dropout: Chance to drop an averaged feature.
        init_std: Standard deviation of the classifier's first weights.

    Source: the head of 3D networks in the ResKD reference (I3DHead), SlowOnly's and Video Swin's.
    """

    def __init__(
        self, backbone: nn.Module, *, num_classes: int, dropout: float, init_std: float = 0.01
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = int(backbone.num_features)  # type: ignore[arg-type]
        self.stage_names = tuple(getattr(backbone, "stage_names", ()))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(self.classifier.weight, std=init_std)
        nn.init.zeros_(self.classifier.bias)

    @property
    def classifier_tensors(self) -> frozenset[str]:
        return frozenset({"classifier.weight", "classifier.bias"})

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        features_BTChw = self.features(clips_BT3HW)
        return ClipOutput(features_BTChw, self.classify(features_BTChw))

    def features(self, clips_BT3HW: Tensor) -> Tensor:
        """Clips to feature maps (B, T', C, h, w)."""
        features_BTChw: Tensor = self.backbone(clips_BT3HW)
        return features_BTChw

    def classify(self, features_BTChw: Tensor) -> Tensor:
        """Feature maps to class scores before softmax, (B, K)."""
        pooled_BC = features_BTChw.mean(dim=(3, 4)).mean(dim=1)
        logits_BK: Tensor = self.classifier(self.dropout(pooled_BC))
        return logits_BK

    def logit_map(self, features_BTChw: Tensor) -> Tensor:
        scores_BThwK: Tensor = self.classifier(features_BTChw.movedim(2, -1))
        return scores_BThwK
