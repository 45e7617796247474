"""One YAML file: one teacher, and usually a student that learns from it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict

from reskd.common.errors import ExperimentError
from reskd.common.experiment.data import ClipSpec, DataSpec, ViewSpec
from reskd.common.experiment.evaluation import EvaluationSpec
from reskd.common.experiment.model import ModelSpec
from reskd.common.experiment.targets import TargetsSpec
from reskd.common.experiment.training import (
    ON_FEATURES,
    ON_LABEL_AND_LOGITS,
    ON_LOGITS,
    LossSpec,
    TrainingSpec,
)
from reskd.common.experiment.values import STRICT, Fraction, Pixels, Positive

Role = Literal["teacher", "student"]
"""Which network of an experiment."""
Precision = Literal["float32", "tf32", "float16", "bfloat16"]
"""In which numbers a teacher computes (common/distill/teacher.py)."""
MOST_FRAMES: Final = 10_000
"""Of a view."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSpec:
    """The network that sees big frames and is run once."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: ModelSpec = field(default_factory=ModelSpec)
    """Recognizer and backbone."""
    checkpoint: Path
    """Checkpoint directory; `train-teacher` writes it, `cache-teacher` reads it."""
    mode: Literal["eval", "batch"] = "eval"
    """State of the teacher while it is cached: `eval` uses the stored BatchNorm statistics, `batch`
    those of recorded groups of clips, as the published recipe does (common/distill/teacher.py)."""
    precision: Precision = "float32"
    """Numbers the cached teacher computes in, part of the cache's identity. `float16` is as exact
    as the float16 or int8 that targets are stored in, and fast on GPUs; `tf32` as exact, without
    float16's end at 65504; `bfloat16` is coarser. Training has a precision of its own."""
    least_top1: Fraction | None = None
    """Stated accuracy: `cache-teacher` measures the teacher on labelled videos first and stops
    below it; null does not measure."""
    gate_videos: Positive = 200
    """How many videos that measurement takes."""
    training: TrainingSpec | None = None
    """How `train-teacher` makes the checkpoint; null when it comes from elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSpec:
    """The network that sees small frames and is deployed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: ModelSpec = field(default_factory=ModelSpec)
    """Recognizer and backbone."""
    size: Pixels = 112
    """Side of its square frames, in pixels."""
    training: TrainingSpec
    """How it is trained, from the cache or from labels alone."""
    losses: LossSpec = field(default_factory=LossSpec)
    """What it learns from; `--no-distill` keeps the cross entropy alone."""
    more_losses: tuple[LossSpec, ...] = ()
    """What it learns from further teachers of the same views, one for each --cache after the first;
    without cross_entropy, for the labels count once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One YAML file: one distillation, or one network that learns from labels alone.

    The latter has no student: its network is `teacher`, whatever becomes of it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    """Title in logs and reports."""
    data: DataSpec
    """Videos."""
    clip: ClipSpec
    """Frames of a view."""
    views: ViewSpec
    """Views of a video."""
    teacher: TeacherSpec
    """Network that is cached."""
    targets: TargetsSpec = field(default_factory=TargetsSpec)
    """What the cache keeps."""
    student: StudentSpec | None = None
    """Network that is trained from the cache; null where only the teacher is trained."""
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    """How accuracy is measured."""

    def __post_init__(self) -> None:
        if self.clip.num_frames > MOST_FRAMES:
            raise ValueError(
                f"clip.num_clips {self.clip.num_clips} of clip.clip_len {self.clip.clip_len} make "
                f"views of {self.clip.num_frames} frames; at most {MOST_FRAMES} are taken"
            )
        if self.student is not None:
            _check_student(self.student, self.views, self.targets)

    @property
    def code_names(self) -> tuple[str, ...]:
        """Names of the user's code in it (common/own_code.py)."""
        student: tuple[str, ...] = ()
        if self.student is not None:
            specs = (self.student.losses, *self.student.more_losses)
            losses = (own.loss for spec in specs for own in spec.own.values())
            student = (*self.student.model.code_names, *losses)
        return (*self.data.code_names, *self.teacher.model.code_names, *student)

    def required_student(self) -> StudentSpec:
        """The student.

        Raises:
            ExperimentError: If the experiment has none.
        """
        if self.student is None:
            raise ExperimentError(
                f"The experiment {self.name!r} has no student: it trains and measures one network "
                "(`reskd train-teacher`). Take one that distils, or add a `student` section."
            )
        return self.student

    def size_of(self, role: Role) -> int:
        """Side of the frames that one of its networks sees, in pixels."""
        return self.views.size if role == "teacher" else self.required_student().size


def _check_student(student: StudentSpec, views: ViewSpec, targets: TargetsSpec) -> None:
    losses = student.losses
    if student.size > views.size:
        raise ValueError(
            f"student.size {student.size} exceeds views.size {views.size}: the student's frames "
            "are made from the teacher's, so they cannot be larger"
        )
    for names, target, stored in (
        (ON_FEATURES, "features", targets.features),
        (ON_LOGITS, "logits", targets.logits),
    ):
        asked = losses.with_weight(names)
        if asked and stored is None:
            raise ValueError(
                f"student.losses.{asked[0]} needs targets.{target}, which is null: store the "
                f"{target} or set the weight to 0"
            )
    for name, own in losses.own.items():
        if lacking := [target for target in own.targets if getattr(targets, target) is None]:
            raise ValueError(
                f"student.losses.own.{name} reads targets.{lacking[0]}, which is null: store it, "
                "or take it out of the loss's targets"
            )
    for spec in (losses, *student.more_losses):
        _check_several_labels(spec, student.training)
    if any(spec.cross_entropy for spec in student.more_losses):
        raise ValueError(
            "student.more_losses are of further teachers: set cross_entropy to 0 in each, the "
            "labels are compared with in student.losses"
        )
    training = student.training
    intra = any(spec.dist_intra for spec in (losses, *student.more_losses))
    if intra and training.sync_batchnorm and training.accumulation > 1:
        raise ValueError(
            "student.losses.dist_intra computes the parts of a step twice, in each process by "
            "itself, training.sync_batchnorm in all processes at once: with both of them "
            "student.training.accumulation has to be 1"
        )
    if losses.logit_map_kl:
        _check_logit_map(targets, losses.logit_map_temperature)


def _check_several_labels(losses: LossSpec, training: TrainingSpec) -> None:
    asked = losses.with_weight(ON_LABEL_AND_LOGITS)
    if asked and training.labels.kind == "any_of":
        raise ValueError(
            f"student.losses.{asked[0]} tells the one right class from all others, but "
            "student.training.labels.kind is any_of, so that a video has several: take "
            "student.losses.logit_kd, or labels of kind one_of"
        )


def _check_logit_map(targets: TargetsSpec, temperature: float) -> None:
    target = targets.logit_map
    if target is None:
        raise ValueError(
            "student.losses.logit_map_kl needs targets.logit_map, which is null: store the "
            "logit map or set the weight to 0"
        )
    if target.top_k is not None and target.temperature != temperature:
        raise ValueError(
            f"student.losses.logit_map_temperature {temperature} differs from "
            f"targets.logit_map.temperature {target.temperature}, at which a top-k map keeps "
            "the mass of its other classes; make them equal, or set targets.logit_map.top_k: "
            "null to keep all classes"
        )
