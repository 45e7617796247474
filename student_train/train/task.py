"""One training step's arithmetic: a student, what it is compared with, and the weighted sum."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from torch import Tensor, nn

from reskd.common.distill.arrays import Grid
from reskd.common.distill.encoding import decode_features
from reskd.common.distill.logit_losses import (
    dist_inter,
    dist_intra,
    dkd_others,
    dkd_target,
    standardised,
)
from reskd.common.distill.losses import (
    feature_mse,
    feature_mse_normalised,
    label_loss,
    logit_map_kl,
    softened_kl,
    top_k_logit_map_kl,
)
from reskd.common.experiment import LabelSpec, LossSpec
from reskd.common.experiment.training import ON_FEATURES, ON_LOGITS
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.train.freeze import frozen_batchnorms
from reskd.student_train.train.ghost_batchnorm import ClipGroups
from reskd.student_train.train.pieces import in_pieces


class TaskOutput(NamedTuple):
    """What one step returns."""

    loss: Tensor
    """Weighted sum, to go backward from."""
    parts: dict[str, Tensor]
    """Unweighted loss terms by the name of their weight in the experiment, for logging."""
    logits_BK: Tensor
    """Class scores, for the training accuracy."""


class Task(nn.Module):
    """A recognizer learning from labels and, where weights say so, from stored targets.

    Args:
        model: The network that is trained.
        losses: Weights; terms of weight 0 are not computed.
        labels: What the labels ask for.
        class_weights_K: Weights of the classes in the loss of the labels; None: all alike.
        teacher_channels: C of the stored feature maps; when the student has another C a 1x1
            convolution, trained with it and dropped afterwards, maps the one to the other.
        teacher_grid: Grid of the teacher's own feature map.
    """

    def __init__(
        self,
        model: Recognizer,
        losses: LossSpec,
        *,
        labels: LabelSpec,
        class_weights_K: Tensor | None = None,
        teacher_channels: int | None = None,
        teacher_grid: Grid | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.losses, self.labels = losses, labels
        self.class_weights_K: Tensor | None
        self.register_buffer("class_weights_K", class_weights_K, persistent=False)
        self.teacher_grid = teacher_grid
        self.groups = ClipGroups()
        self.adapter: nn.Module = nn.Identity()
        if losses.with_weight(ON_FEATURES) and teacher_channels not in (None, model.num_features):
            self.adapter = nn.Conv2d(model.num_features, int(teacher_channels or 0), kernel_size=1)

    def train(self, mode: bool = True) -> "Task":
        """Training mode, but for BatchNorm that is frozen."""
        super().train(mode)
        for layer in frozen_batchnorms(self):
            layer.eval()
        return self

    def forward(
        self, clips_BT3HW: Tensor, labels: Tensor, targets: dict[str, Tensor]
    ) -> TaskOutput:
        output = in_pieces(self.model, clips_BT3HW, self.groups)
        if self.groups.weights is None:
            parts = self._compared(output, labels, targets)
        else:
            edges = pairwise(accumulate(self.groups.sizes, initial=0))
            groups = [
                self._compared(
                    ClipOutput(output.features_BTChw[first:last], output.logits_BK[first:last]),
                    labels[first:last],
                    {name: rows[first:last] for name, rows in targets.items()},
                )
                for first, last in edges
            ]
            parts = _weighted(groups, self.groups.weights)
        if self.losses.dist_intra:  # of all clips at once, whatever groups they are in
            parts["dist_intra"] = dist_intra(
                output.logits_BK, targets["logits"], temperature=self.losses.temperature
            )
        terms = [getattr(self.losses, name) * part for name, part in parts.items()]
        return TaskOutput(sum(terms[1:], terms[0]), parts, output.logits_BK)

    def _compared(
        self, output: ClipOutput, labels: Tensor, targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The terms that are means over clips."""
        features_BTChw, logits_BK = output
        parts: dict[str, Tensor] = {}
        if self.losses.cross_entropy:
            parts["cross_entropy"] = label_loss(
                logits_BK, labels, self.labels, self.class_weights_K
            )
        if self.losses.with_weight(ON_FEATURES):
            parts |= self._on_features(features_BTChw, targets)
        if self.losses.with_weight(ON_LOGITS):
            parts |= self._on_logits(logits_BK, targets["logits"], labels)
        if self.losses.logit_map_kl:
            parts["logit_map_kl"] = self._logit_map_kl(features_BTChw, targets)
        return parts

    def _on_features(self, features_BTChw: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.teacher_grid is not None, "losses on features need the teacher's grid"
        adapted = self.adapter(features_BTChw.flatten(0, 1)).unflatten(0, features_BTChw.shape[:2])
        stored, residual_B = decode_features(targets), targets.get("feature_residual")
        of_maps = {"feature_mse": feature_mse, "feature_mse_normalised": feature_mse_normalised}
        return {
            name: of_maps[name](adapted, stored, residual_B, teacher_grid=self.teacher_grid)
            for name in self.losses.with_weight(ON_FEATURES)
        }

    def _on_logits(
        self, student_BK: Tensor, teacher_BK: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        losses = self.losses
        parts: dict[str, Tensor] = {}
        if losses.dist_inter:
            parts["dist_inter"] = dist_inter(student_BK, teacher_BK, temperature=losses.temperature)
        if losses.standardise_logits:
            student_BK, teacher_BK = standardised(student_BK), standardised(teacher_BK)
        if losses.logit_kd:
            parts["logit_kd"] = softened_kl(student_BK, teacher_BK, temperature=losses.temperature)
        of_label = {"dkd_target": dkd_target, "dkd_others": dkd_others}
        for name in losses.with_weight(of_label):
            parts[name] = of_label[name](
                student_BK, teacher_BK, labels, temperature=losses.temperature
            )
        return parts

    def _logit_map_kl(self, features_BTChw: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Against the dense or the top-k map, whichever was stored; the adapter has no part."""
        scores_BThwK = self.model.logit_map(features_BTChw)
        temperature = self.losses.logit_map_temperature
        if "logit_map" in targets:
            return logit_map_kl(scores_BThwK, targets["logit_map"], temperature=temperature)
        return top_k_logit_map_kl(
            scores_BThwK,
            targets["logit_map_ids"],
            targets["logit_map_values"],
            targets["logit_map_rest"],
            temperature=temperature,
        )


def _weighted(groups: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The terms of groups of clips as those of all of them."""

    def mean(values: Iterable[Tensor]) -> Tensor:
        terms = [weight * value for weight, value in zip(weights, values, strict=True)]
        return sum(terms[1:], terms[0])

    return {name: mean(group[name] for group in groups) for name in groups[0]}
