"""What an experiment file may say: frozen dataclasses, checked by pydantic.

One experiment is one distillation. Each field carries its meaning and unit below it. The cache's
identity is made of some of these fields (teacher_cache/manifest.py names them).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)

# Strict: YAML writes whole numbers plainly, and `epochs: yes` must not become 1.
Positive = Annotated[int, Field(ge=1, strict=True)]
NotNegative = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Which videos, and who decodes them."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    index: Path
    """Video index, made by `reskd dataset import`."""
    train_split: str = "train"
    """Split of the index that is cached and trained on."""
    val_split: str = "val"
    """Split of the index that `evaluate` measures."""
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    """`auto` is decord where it is installed and opens the file, else PyAV."""
    max_bad: Fraction = 0.005
    """Share of videos that may be unreadable before a command stops with exit code 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """How frames are picked from a video: `num_clips` pieces of `clip_len` frames."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    num_clips: Positive
    """Pieces (TSN: segments), spread over the whole video."""
    clip_len: Positive = 1
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

    count: Positive
    """V, stored views per video. A quarter to a third of the student's epochs is a good number."""
    seed: NotNegative = 0
    """Key of every draw, together with the video's id and the view's number."""
    short_side: Positive = 256
    """Shorter side of the frame that crops are taken from, in pixels."""
    crop: Literal["multi_scale", "random_resized"] = "multi_scale"
    """Rule of the training crop; evaluation takes the centre."""
    scales: tuple[Share, ...] = (1.0, 0.875, 0.75, 0.66)
    """multi_scale: crop sides over the short side, largest first."""
    size: Positive = 224
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A recognizer and the backbone inside it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    recognizer: Literal["tsn", "tsm", "slowonly", "swin3d", "torchvision"] = "tsn"
    """How frames become a clip's answer. `reskd models list` shows what there is."""
    backbone: str = "resnet50"
    """Name of a timm model; for swin3d and torchvision of a video model of torchvision."""
    backbone_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm.create_model or of torchvision's model, such as output_stride."""
    pretrained: bool = False
    """Start from the weights timm or torchvision has under that name."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout before the classifier."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance to skip the last residual branch in training, growing linearly from 0 at the first.
    A teacher that answers never skips any."""

    def __post_init__(self) -> None:
        for name in ("drop_path_rate", "stochastic_depth_prob"):
            if self.drop_path and name in self.backbone_args:
                raise ValueError(f"drop_path and backbone_args.{name} say the same; keep one")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """The optimiser."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum, no Nesterov) or adamw."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of epoch 0; nothing scales it with the batch size."""
    momentum: Fraction = 0.9
    """Momentum of sgd; unused by adamw."""
    weight_decay: Weight = 1e-4
    """Decay of every parameter, normalisation layers and biases included where groups is one."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 20.0
    """Largest global L2 norm of the gradient; null does not clip."""
    groups: Literal["one", "by_kind", "swin", "swin_intended"] = "one"
    """Which parameters have their own rate and decay (student_train/optim.py): `one` group, what
    the published 2D recipes come to; `by_kind` biases at twice the rate, they and norms without
    decay (TSM; what the 2D recipes meant); `swin`, what the published Swin recipes come to, and
    `swin_intended`, what they meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSpec:
    """How the learning rate changes: a curve by epoch, and a linear warm-up by step."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Literal["cosine", "step"] = "cosine"
    """cosine: lr/2 (1 + cos(pi e/E)); step: lr times gamma at every milestone."""
    milestones: tuple[Positive, ...] = ()
    """step: first epochs at the lower rate."""
    gamma: Share = 0.1
    """step: factor at each milestone."""
    warmup_epochs: Weight = 0.0
    """Length of the warm-up; fractions of an epoch are allowed."""
    warmup_ratio: Share = 0.1
    """Share of the learning rate that the first step has."""

    def __post_init__(self) -> None:
        if self.name == "step" and not self.milestones:
            raise ValueError("schedule step needs milestones, such as [90, 130]")
        if self.name == "cosine" and self.milestones:
            raise ValueError("milestones belong to schedule step; cosine has none")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """One training run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Positive
    """Passes over the training videos, one view of each video per pass."""
    batch_size: Positive = 64
    """Clips per optimiser step."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    """Optimiser and its numbers."""
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    """Learning rate over time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes the network's layers in it (autocast); weights and losses stay float32."""
    seed: NotNegative = 0
    """Key of initialisation, order of videos and dropout."""
    workers: NotNegative = 0
    """Processes that decode videos; 0 decodes in the training process. Never changes a result."""
    memory_gb: Weight = 0.0
    """Decoded videos that each of these processes keeps, in GB. Never changes a result."""


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
    least_top1: Fraction | None = None
    """Stated accuracy: `cache-teacher` measures the teacher on labelled videos first and stops
    below it; null does not measure."""
    gate_videos: Positive = 200
    """How many videos that measurement takes."""
    training: TrainingSpec | None = None
    """How `train-teacher` makes the checkpoint; null when it comes from elsewhere."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitMapTarget:
    """Class scores at every location of the teacher's feature map, before softmax."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dtype: Literal["float16"] = "float16"
    """Number type on disk, of the scores."""
    top_k: Positive | None = None
    """Keep this many scores of each location and the mass of the rest; null keeps all classes."""
    temperature: Temperature = 2.0
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSpec:
    """Weights of the student's loss terms; a term of weight 0 is not computed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    cross_entropy: Weight = 1.0
    """Against the labels."""
    feature_mse: Weight = 100.0
    """Mean squared difference of feature maps on the teacher's grid."""
    logit_kd: Weight = 0.0
    """KL divergence from the teacher's softened class scores."""
    temperature: Temperature = 2.0
    """Softening of logit_kd."""
    logit_map_kl: Weight = 0.0
    """KL divergence from the teacher's softened class scores at every location."""
    logit_map_temperature: Temperature = 2.0
    """Softening of logit_map_kl."""

    def __post_init__(self) -> None:
        if not (self.cross_entropy or self.feature_mse or self.logit_kd or self.logit_map_kl):
            raise ValueError("every weight is 0, so there is nothing to learn from")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSpec:
    """The network that sees small frames and is deployed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: ModelSpec = field(default_factory=ModelSpec)
    """Recognizer and backbone."""
    size: Positive = 112
    """Side of its square frames, in pixels."""
    training: TrainingSpec
    """How it is trained, from the cache or from labels alone."""
    losses: LossSpec = field(default_factory=LossSpec)
    """What it learns from; `--no-distill` keeps the cross entropy alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSpec:
    """Test protocol: frames at the centre of each segment, the centre crop, one view per video."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    batch_size: Positive = 16
    """Clips per forward pass."""
    crop_fraction: Share = 0.875
    """Side of the centre crop over the short side; 0.875 is 224 of 256."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One YAML file: one distillation."""

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
    student: StudentSpec
    """Network that is trained from the cache."""
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    """How accuracy is measured."""

    def __post_init__(self) -> None:
        if self.student.size > self.views.size:
            raise ValueError(
                f"student.size {self.student.size} exceeds views.size {self.views.size}: the "
                "student's frames are made from the teacher's, so they cannot be larger"
            )
        if self.student.losses.feature_mse and self.targets.features is None:
            raise ValueError(
                "student.losses.feature_mse needs targets.features, which is null: store the "
                "features or set the weight to 0"
            )
        if self.student.losses.logit_kd and self.targets.logits is None:
            raise ValueError(
                "student.losses.logit_kd needs targets.logits, which is null: store the logits "
                "or set the weight to 0"
            )
        if self.student.losses.logit_map_kl:
            self._check_logit_map()

    def _check_logit_map(self) -> None:
        target, temperature = self.targets.logit_map, self.student.losses.logit_map_temperature
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
