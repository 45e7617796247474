"""Losses of a student's outputs against one teacher's."""

from collections.abc import Mapping

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
    logit_map_kl,
    softened_kl,
    top_k_logit_map_kl,
)
from reskd.common.experiment import LossSpec
from reskd.common.experiment.training import ON_FEATURES, ON_LOGITS
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.train.own_losses import OwnLoss


class TeacherTerms(nn.Module):
    """What a student learns from one teacher.

    Args:
        losses: Weights; terms of weight 0 are not computed.
        student: The network that is trained.
        teacher_channels: C of the stored feature maps; when the student's is another, a 1x1
            convolution, trained with it and dropped afterwards, maps the one to the other.
        teacher_grid: Grid of the teacher's own feature map.
    """

    def __init__(
        self,
        losses: LossSpec,
        *,
        student: Recognizer,
        teacher_channels: int | None,
        teacher_grid: Grid | None,
    ) -> None:
        super().__init__()
        self.losses, self.teacher_grid = losses, teacher_grid
        self.adapter: nn.Module = nn.Identity()
        if losses.with_weight(ON_FEATURES) and teacher_channels not in (None, student.num_features):
            self.adapter = nn.Conv2d(student.num_features, int(teacher_channels or 0), 1)
        self.own = nn.ModuleDict({name: OwnLoss(name, own) for name, own in losses.own.items()})

    def of_clips(
        self, model: Recognizer, output: ClipOutput, labels: Tensor, targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The unweighted terms that are means over clips, by the names of their weights."""
        features_BTChw, logits_BK = output
        parts: dict[str, Tensor] = {}
        if self.losses.with_weight(ON_FEATURES):
            parts |= self._on_features(features_BTChw, targets)
        if self.losses.with_weight(ON_LOGITS):
            parts |= self._on_logits(logits_BK, targets["logits"], labels)
        if self.losses.logit_map_kl:
            scores_BThwK = model.logit_map(features_BTChw)
            parts["logit_map_kl"] = self._logit_map_kl(scores_BThwK, targets)
        for name, own in self.own.items():
            parts[name] = own(output, targets, labels)
        return parts

    def of_batch(self, logits_BK: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Likewise those of all clips at once, whatever groups they are in."""
        if not self.losses.dist_intra:
            return {}
        temperature = self.losses.temperature
        return {"dist_intra": dist_intra(logits_BK, targets["logits"], temperature=temperature)}

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

    def _logit_map_kl(self, scores_BThwK: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Against the dense or the top-k map, whichever was stored; the adapter has no part."""
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
