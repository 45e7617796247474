"""The one interface of all recognizers: clips in, feature maps and class scores out.

Shape letters: B clips, T frames, C channels, H and W frame size, h and w grid, K classes.
"""

from typing import NamedTuple

from torch import Tensor, nn

from reskd.common.video.preprocess import IMAGENET, Colours, normalize


class ClipOutput(NamedTuple):
    """What a recognizer says about a batch of clips."""

    features_BTChw: Tensor
    """Last feature map of every frame, (B, T, C, h, w); (B, T, 0, 0, 0) where a network has none:
    crossvit's, for one, are two of different sizes."""
    logits_BK: Tensor
    """Class scores before softmax, (B, K)."""


class Recognizer(nn.Module):
    """Base of all recognizers.

    `forward` takes clips (B, T, 3, H, W) as `normalize` makes them and returns a `ClipOutput`.
    """

    colours: Colours = IMAGENET
    """What its clips are normalised with; every network has its own."""

    num_features: int
    """C, channels of the feature map."""
    stage_names: tuple[str, ...] = ()
    """Names of the backbone's stages, first to last, for listings."""
    gives_logit_map: bool = True
    """Whether its classifier may be asked at every location of a feature map."""

    @property
    def classifier_tensors(self) -> frozenset[str]:
        """Names of the weights and biases that have a row for each class."""
        raise NotImplementedError

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        raise NotImplementedError

    def logit_map(self, features_BTChw: Tensor) -> Tensor:
        """The classifier at every location of a feature map, without dropout.

        Args:
            features_BTChw: Feature maps as `forward` returns them; the grid may be another.

        Returns:
            Class scores before softmax, (B, T, h, w, K). Only where `gives_logit_map`.
        """
        raise NotImplementedError

    def normalize(self, clips_BT3HW: Tensor) -> Tensor:
        """uint8 clips as this network takes them, float32, on the device they are on."""
        return normalize(clips_BT3HW, self.colours)

    def __call__(self, clips_BT3HW: Tensor) -> ClipOutput:
        output: ClipOutput = super().__call__(clips_BT3HW)
        return output
