"""The teacher's forward pass: clips in, class scores and feature maps out."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.devices import plain_float32
from reskd.common.errors import ExperimentError
from reskd.common.models.recognizer import Recognizer

BATCH_GROUP: Final = 8
"""Clips that share their BatchNorm statistics in mode `batch`: one device's batch as published."""


class TeacherOutput(NamedTuple):
    """Outputs for a batch of clips: float32, on the teacher's device."""

    features_BTChw: Tensor
    """Last feature map of every frame, (B, T, C, h, w)."""
    logits_BK: Tensor
    """Class scores before softmax, (B, K)."""
    logit_map_BThwK: Tensor | None = None
    """Class scores of every location, (B, T, h, w, K); None if they were not asked for."""

    def single(self, clip: int) -> "TeacherOutput":
        """The outputs for one clip, as a batch of one."""
        own = slice(clip, clip + 1)
        scores = self.logit_map_BThwK
        return TeacherOutput(
            self.features_BTChw[own],
            self.logits_BK[own],
            None if scores is None else scores[own],
        )


def joined(outputs: Sequence[TeacherOutput]) -> TeacherOutput:
    """The outputs for several batches as one."""
    features, logits, scores = zip(*outputs, strict=True)
    return TeacherOutput(
        torch.cat(features), torch.cat(logits), None if scores[0] is None else torch.cat(scores)
    )


class Teacher:
    """A frozen recognizer. Dropout and drop path are off, and no forward pass changes it.

    Mode `eval` uses the stored BatchNorm statistics: deterministic, each clip by itself, and what
    the teacher's reported accuracy refers to.

    Mode `batch` uses the statistics of the clips handed over together, and leaves the stored ones
    as they are. The outputs for a clip then depend on the clips beside it, so callers hand over
    recorded groups of BATCH_GROUP clips, and the same group again to repeat an output.

    Args:
        model: The recognizer; it is moved, frozen and from now on the teacher's own.
        device: Where it runs.
        mode: Which statistics BatchNorm layers use.
        logit_map: Whether outputs carry the class scores of every location.

    Raises:
        ExperimentError: If mode is `batch` and the model has no BatchNorm layer.

    Source: the published recipe (ResKD, arXiv:2209.12797) leaves BatchNorm in train mode while the
    teacher runs, so its targets come from the statistics of each device's own batch of 8 clips.
    Unlike there, stored statistics do not move here, so the order of groups is without effect.
    """

    def __init__(
        self,
        model: Recognizer,
        device: torch.device,
        *,
        mode: Literal["eval", "batch"] = "eval",
        logit_map: bool = False,
    ) -> None:
        self.device = device
        self.mode = mode
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self._logit_map = logit_map
        if mode == "batch":
            _use_batch_statistics(self.model)

    @torch.inference_mode()
    def predict(self, clips_BT3HW: Tensor) -> TeacherOutput:
        """Run the teacher in float32.

        Args:
            clips_BT3HW: uint8 clips at the teacher's size.

        Returns:
            Feature maps, class scores and, if asked for, the class scores of every location.
        """
        with plain_float32():
            features, logits = self.model(self.model.normalize(clips_BT3HW.to(self.device)))
            logit_map = self.model.logit_map(features).float() if self._logit_map else None
        return TeacherOutput(features.float(), logits.float(), logit_map)


def _use_batch_statistics(model: Recognizer) -> None:
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        raise ExperimentError(
            "teacher.mode is batch, but the teacher has no BatchNorm layer, so there is nothing "
            "that its batch could change. Set teacher.mode: eval."
        )
    for layer in layers:
        # Of this layer alone: train() would switch on the dropout that timm's layers hold inside.
        layer.training = True
        # With this a layer that trains neither updates nor counts; its buffers stay in place.
        layer.track_running_stats = False
