"""The teacher's forward pass: clips in, class scores and feature maps out."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.devices import repeatable_arithmetic
from reskd.common.distill.number_types import HALF_TYPES, in_precision, rounds_to_tf32
from reskd.common.errors import ExperimentError
from reskd.common.experiment import Precision
from reskd.common.models.recognizer import Recognizer

BATCH_GROUP: Final = 8
"""Clips that share their BatchNorm statistics in mode `batch`: one device's batch as published."""


class TeacherOutput(NamedTuple):
    """Outputs for a batch of clips: float32 whatever the precision, on the teacher's device."""

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
        model: The recognizer; it is moved, frozen and from now on the teacher's own, but for
            float16 and bfloat16, which take a copy.
        device: Where it runs.
        mode: Which statistics BatchNorm layers use.
        precision: In which numbers, see number_types.py.
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
        precision: Precision = "float32",
        logit_map: bool = False,
    ) -> None:
        self.device = device
        self.mode = mode
        self.precision: Precision = precision
        self.model = in_precision(model, precision, device)
        self._type = HALF_TYPES.get(precision, torch.float32)
        self._tf32 = rounds_to_tf32(precision, device)
        self._logit_map = logit_map
        if mode == "batch":
            _use_batch_statistics(self.model)

    @torch.inference_mode()
    def predict(self, clips_BT3HW: Tensor) -> TeacherOutput:
        """Run the teacher in its precision. Waits for nothing, if the clips are on its device.

        Args:
            clips_BT3HW: uint8 clips at the teacher's size, any strides.

        Returns:
            Feature maps, class scores and, if asked for, the class scores of every location.

        Raises:
            ExperimentError: If a layer of this network does not work in this precision.
        """
        with repeatable_arithmetic(tf32=self._tf32):
            # Contiguous, or the order of the clips in memory could change a network's roundings.
            there = clips_BT3HW.to(self.device).contiguous()
            frames_BT3HW = self.model.normalize(there).to(self._type)
            try:
                features, logits = self.model(frames_BT3HW)
                logit_map = self.model.logit_map(features) if self._logit_map else None
            except RuntimeError as error:
                if self._type is torch.float32 or not _is_about_types(error):
                    raise
                raise _unsuited(self.precision, self.device, error) from error
        return TeacherOutput(
            self._widened(features),
            self._widened(logits),
            None if logit_map is None else self._widened(logit_map),
        )

    def _widened(self, values: Tensor) -> Tensor:
        """As float32; what was no plain float32 network's lies contiguous.

        The maps of such a network stay in their order in memory: the next sum over them would else
        round otherwise than it did for older caches.
        """
        if self.precision == "float32":
            return values.float()
        return values.to(torch.float32, memory_format=torch.contiguous_format)


def _is_about_types(error: RuntimeError) -> bool:
    words = ("dtype", "scalar type", "weight type", "not implemented for")
    return any(word in str(error) for word in words)


def _unsuited(precision: Precision, device: torch.device, error: RuntimeError) -> ExperimentError:
    return ExperimentError(
        f"This teacher cannot compute in teacher.precision {precision} on {device}: "
        f"{str(error).splitlines()[0]}. Set teacher.precision: float32, or tf32 for a GPU."
    )


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
