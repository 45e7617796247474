"""The one interface of all recognizers: clips in, feature maps and class scores out.

Shape letters: B clips, T frames, C channels, H and W frame size, h and w grid, K classes.
"""

from typing import NamedTuple

from torch import Tensor, nn


class ClipOutput(NamedTuple):
    """What a recognizer says about a batch of clips."""

    features_BTChw: Tensor
    """Last feature map of every frame, (B, T, C, h, w)."""
    logits_BK: Tensor
    """Class scores before softmax, (B, K)."""


class Recognizer(nn.Module):
    """Base of all recognizers.

    `forward` takes normalised float clips (B, T, 3, H, W) and returns a `ClipOutput`.
    """

    num_features: int
    """C, channels of the feature map."""
    stage_names: tuple[str, ...] = ()
    """Names of the backbone's stages, first to last, for listings."""

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        raise NotImplementedError

    def logit_map(self, features_BTChw: Tensor) -> Tensor:
        """The classifier at every location of a feature map, without dropout.

        Args:
            features_BTChw: Feature maps as `forward` returns them; the grid may be another.

        Returns:
            Class scores before softmax, (B, T, h, w, K).
        """
        raise NotImplementedError

    def __call__(self, clips_BT3HW: Tensor) -> ClipOutput:
        output: ClipOutput = super().__call__(clips_BT3HW)
        return output
