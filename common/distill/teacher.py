"""The teacher's forward pass: stored views in, what it says about them out."""

import torch
from torch import Tensor

from common.models.recognizer import ClipOutput, Recognizer
from common.video.view_ops import normalize


class Teacher:
    """A frozen recognizer in eval mode: BatchNorm uses its stored statistics, no dropout.

    The published recipe leaves the teacher in train mode, so its answers depend on the other clips
    of a batch; eval mode is deterministic and is what the teacher's reported accuracy refers to.
    """

    def __init__(self, model: Recognizer, device: torch.device) -> None:
        self.device = device
        self.model = model.to(device).eval().requires_grad_(requires_grad=False)

    @torch.inference_mode()
    def answer(self, clips_BT3HW: Tensor) -> ClipOutput:
        """Run the teacher in float32.

        Args:
            clips_BT3HW: uint8 clips at the teacher's size.

        Returns:
            Feature maps and class scores, float32, on the teacher's device.
        """
        # float32 means float32: CUDA would round convolutions to TF32, or pick them by timing.
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            output = self.model(normalize(clips_BT3HW.to(self.device)))
        return ClipOutput(output.features_BTChw.float(), output.logits_BK.float())
