"""What a network says about clips: the one forward pass of all commands that only ask it.

float32 is float32 and nothing is kept for gradients, so a clip gets the same scores whether
`predict`, `evaluate` or `extract-features` asks.
"""

from typing import Literal

import torch
from torch import Tensor

from reskd.common.devices import repeatable_arithmetic
from reskd.common.errors import DataError
from reskd.common.experiment import Experiment, Role
from reskd.common.models.recognizer import ClipOutput, Recognizer

ScoreActivation = Literal["softmax", "sigmoid"]


@torch.inference_mode()
def forward(model: Recognizer, clips_BT3HW: Tensor) -> ClipOutput:
    """Run one batch.

    Args:
        model: In eval mode.
        clips_BT3HW: uint8 RGB, or float32 as `model.normalize` makes it; on any device.

    Returns:
        Feature maps and class scores as the network gives them, on its device.
    """
    clips = clips_BT3HW.to(next(model.parameters()).device)
    with repeatable_arithmetic():
        return model(model.normalize(clips) if clips.dtype == torch.uint8 else clips)


@torch.inference_mode()
def probabilities(model: Recognizer, clips_BT3HW: Tensor, activation: ScoreActivation) -> Tensor:
    """Class probabilities of one batch as `forward` takes it: float32 (B, K) on the CPU."""
    logits_BK = forward(model, clips_BT3HW).logits_BK.float()
    return (logits_BK.softmax(1) if activation == "softmax" else logits_BK.sigmoid()).cpu()


def not_finite(of: str = "", first: str = "") -> DataError:
    """The error for a network whose probabilities are nan; both arguments say of which videos."""
    return DataError(
        f"the network's predictions{of} are not numbers (nan){first}. Its training has diverged; "
        "take another checkpoint, or train again with a lower learning rate"
    )


def score_activation_of(experiment: Experiment, role: Role) -> ScoreActivation:
    """How class scores become probabilities: as in the loss that the network was trained with.

    A teacher that was not trained here (no teacher.training) is taken for a softmax classifier.
    Where an imported student is measured by an experiment without one, the one network counts.
    """
    part = (experiment.student if role == "student" else None) or experiment.teacher
    any_of = part.training is not None and part.training.labels.kind == "any_of"
    return "sigmoid" if any_of else "softmax"
