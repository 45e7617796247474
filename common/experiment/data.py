"""Which videos, and how clips are cut out of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from reskd.common.experiment.values import (
    STRICT,
    Fraction,
    PerVideo,
    Pixels,
    Positive,
    Seed,
    Share,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Which videos, and who decodes them."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    index: Path
    """Video index, made by `reskd dataset import`."""
    train_split: str = "train"
    """Split of the index that is cached and trained on."""
    val_split: str | None = None
    """Split of the index that `evaluate` measures and training is measured on. One that is named
    must be there; null is `val`, and training goes unmeasured where the index has none."""
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """`auto` is decord where it is installed and opens the file, else PyAV. Of H.264 video of which
    both make the same pixels it has the faster one decode."""
    frames: Path | None = None
    """Frame store that is read instead of the videos, made by `reskd dataset extract-frames`. Clips
    are then cut from the kept frames as if they were the video. null opens the videos."""
    reader: str | None = None
    """Code of yours that finds and opens the videos, `package.module:name` or an entry point
    (common/dataset/own_reader.py), as they were imported; null opens files."""
    max_bad: Fraction = 0.005
    """Share of videos that may be unreadable before a command stops with exit code 5."""

    def __post_init__(self) -> None:
        if self.reader is not None and self.frames is not None:
            raise ValueError("reader and frames both say where frames come from; keep one")

    @property
    def code_names(self) -> tuple[str, ...]:
        """Names of the user's code in it."""
        return () if self.reader is None else (self.reader,)

    @property
    def measured_split(self) -> str:
        """Split that is measured, named or not."""
        return self.val_split or "val"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """How frames are picked from a video: `num_clips` pieces of `clip_len` frames."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    num_clips: PerVideo
    """Pieces (TSN: segments), spread over the whole video."""
    clip_len: PerVideo = 1
    """Frames per piece."""
    frame_interval: Positive = 1
    """Step between neighbouring frames of a piece, in source frames."""

    @property
    def num_frames(self) -> int:
        """T, the frames of one view."""
        return self.num_clips * self.clip_len


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSpec:
    """How views are drawn. The drawn numbers are stored; this only says where they come from."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    count: PerVideo
    """V, stored views per video. A quarter to a third of the student's epochs is a good number."""
    seed: Seed = 0
    """Key of every draw, together with the video's id and the view's number."""
    short_side: Pixels = 256
    """Shorter side of the frame that crops are taken from, in pixels."""
    crop: Literal["multi_scale", "random_resized"] = "multi_scale"
    """Rule of the training crop; evaluation takes the centre."""
    scales: tuple[Share, ...] = (1.0, 0.875, 0.75, 0.66)
    """multi_scale: crop sides over the short side, largest first."""
    size: Pixels = 224
    """Side of the square frames the teacher sees, in pixels."""
    flip_probability: Fraction = 0.5
    """Chance of a horizontal flip. 0 where direction carries the label."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("scales is empty; [1.0] crops at the full short side only")
        if self.size > self.short_side:
            raise ValueError(
                f"size {self.size} is larger than short_side {self.short_side}: the teacher's "
                "centre crop would not fit into the frame"
            )
