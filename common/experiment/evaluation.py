"""How accuracy is measured."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from reskd.common.experiment.values import STRICT, PerVideo, Pixels, Positive, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSpec:
    """Test protocol: which views of a video are seen, and what is made of their scores.

    The probabilities of a video's clips x crops are averaged (common/video/eval_views.py).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    metric: Literal["top1", "mean_average_precision"] = "top1"
    """The figure that is named first; all of them are measured."""
    interval: Positive = 5
    """Training measures itself after every so many epochs, on one clip x the centre crop, and as
    stated below at its end."""
    batch_size: Positive = 16
    """Clips per forward pass; a video with more of them is computed in parts."""
    clips: PerVideo = 1
    """Clips per video, spread over it; each has the frames that `clip` says."""
    twice: bool = False
    """Also as many clips that begin where the segments do, beside those in their middle."""
    crops: Literal[1, 3] = 1
    """1: the centre; 3: both ends of the longer side and the centre."""
    crop_fraction: Share = 0.875
    """Side of a crop over the short side; 0.875 is 224 of 256."""
    short_side: Pixels | None = None
    """Shorter side of the frame that crops are taken from, in pixels; null: views.short_side."""
    size: Pixels | None = None
    """Side of the teacher's frames, in pixels; null: views.size. The student's change with it in
    proportion."""
