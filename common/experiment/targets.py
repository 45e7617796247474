"""What the store keeps of every view."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from reskd.common.experiment.values import STRICT, Above0, Positive


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitsTarget:
    """Class scores before softmax, all classes."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dtype: Literal["float16"] = "float16"
    """Number type on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesTarget:
    """Last feature map of the teacher."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    grid: Literal["student", "teacher"] = "student"
    """`student` stores the exact projection on the student's grid and the residual that restores
    the loss; `teacher` stores the map as it is, for students of several sizes."""
    dtype: Literal["float16", "int8"] = "float16"
    """Number type on disk; `int8` has a scale per channel and clip and takes half the bytes."""
    average_steps: Positive = 1
    """Neighbouring time steps of the teacher's map that become one, their mean, before it is
    stored, for students whose maps have as many fewer. The loss is one with the mean then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitMapTarget:
    """Class scores at every location of the teacher's feature map, before softmax."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dtype: Literal["float16"] = "float16"
    """Number type on disk, of the scores."""
    top_k: Positive | None = None
    """Keep this many scores of each location and the mass of the rest; null keeps all classes."""
    temperature: Above0 = 2.0
    """Temperature at which the remaining mass of a top-k map is taken; unused by a dense map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FramesTarget:
    """The student's input, so that its epochs decode no video."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dtype: Literal["uint8"] = "uint8"
    """Number type on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsSpec:
    """What the store keeps of every view; null leaves a target out."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    logits: LogitsTarget | None = field(default_factory=LogitsTarget)
    """Class scores."""
    features: FeaturesTarget | None = field(default_factory=FeaturesTarget)
    """Feature map."""
    logit_map: LogitMapTarget | None = None
    """Class scores of every location."""
    frames: FramesTarget | None = field(default_factory=FramesTarget)
    """Student input."""
    codec: Literal["none", "zstd"] = "none"
    """Compression of the rows; `zstd` is for cold storage: fewer bytes, slower reads."""
