"""Loss terms of the user's, `student.losses.own`.

    own:
      attention: {loss: "mypackage.losses:build", weight: 10, targets: [features], args: {power: 2}}

`build(**args)` returns what is called for the clips of every step, or of a part of it, as

    loss(output, targets, labels) -> 0-d tensor, the mean over these clips

output      the student's, `features_BTChw` (B, T', C, h, w) and `logits_BK` (B, K), with gradient
targets     the teacher's by name, float32: `logits` (B, K), `features` (B, T', C, h, w) with
            `feature_residual` (B,) where they lie on the student's grid, `logit_map` (B, T', h, w,
            K) or the three arrays of one that keeps the best classes; constants
labels      class numbers, int64 (B,), or for labels of kind any_of 1 for every class that
            applies, float32 (B, K)

A mean over clips, so that parts of a step and processes add up. If it is a torch module, its
parameters are trained with the student, and dropped afterwards.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from reskd.common.distill.encoding import decode_features
from reskd.common.distill.targets import ARRAYS_OF_TARGET
from reskd.common.errors import ExperimentError
from reskd.common.experiment.training import OwnLossSpec
from reskd.common.models.recognizer import ClipOutput
from reskd.common.own_code import own_code


class OwnLoss(nn.Module):
    """One term.

    Args:
        name: Its name in the experiment.
        spec: What the experiment says of it.

    Raises:
        ExperimentError: If there is no such code, it is not trusted, or it fails; `forward` raises
            it where it fails or returns something else than one number.
    """

    def __init__(self, name: str, spec: OwnLossSpec) -> None:
        super().__init__()
        self._name, self._spec = f"student.losses.own.{name} ({spec.loss})", spec
        build = own_code("losses", spec.loss)
        self.loss: Callable[[ClipOutput, dict[str, Tensor], Tensor], Tensor]
        try:
            self.loss = build(**spec.args)
        except Exception as error:
            raise ExperimentError(self._failed(error)) from error
        if not callable(self.loss):
            raise ExperimentError(
                f"{self._name} returns {type(self.loss).__name__}; what it returns is called with "
                "the student's output, targets and labels (student_train/train/own_losses.py)."
            )

    def forward(self, output: ClipOutput, targets: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        wanted = {
            name: targets[name].float() if targets[name].is_floating_point() else targets[name]
            for target in self._spec.targets
            for name in ARRAYS_OF_TARGET[target]
            if name in targets and name != "feature_scale"
        }
        if "features" in wanted:
            wanted["features"] = decode_features(targets)
        try:
            value: object = self.loss(output, wanted, labels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ExperimentError(self._failed(error)) from error
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            got = type(value).__name__
            if isinstance(value, Tensor):
                got = f"{value.dtype} of shape {tuple(value.shape)}"
            raise ExperimentError(
                f"{self._name} gives {got}; the mean over the clips is wanted, a tensor of one "
                "floating-point number."
            )
        return value

    def _failed(self, error: Exception) -> str:
        return f"{self._name} fails: {type(error).__name__}: {error}"
