"""How a network is trained."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict

from reskd.common.experiment.values import (
    STRICT,
    Above0,
    Fraction,
    Positive,
    Processes,
    ProperFraction,
    Seed,
    Share,
    Weight,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """The optimiser."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (with momentum, no Nesterov) or adamw."""
    lr: Above0 = 0.01
    """Learning rate of epoch 0; nothing scales it with the batch size."""
    momentum: Fraction = 0.9
    """Momentum of sgd; unused by adamw."""
    weight_decay: Weight = 1e-4
    """Decay of every parameter, normalisation layers and biases included where groups is one."""
    clip_norm: Above0 | None = 20.0
    """Largest global L2 norm of the gradient; null does not clip."""
    groups: Literal["one", "by_kind", "swin", "swin_intended"] = "one"
    """Which parameters have their own rate and decay (student_train/train/optim.py): `one` group,
    what the published 2D recipes come to; `by_kind` biases at twice the rate, they and norms
    without decay (TSM; what the 2D recipes meant); `swin`, what the published Swin recipes come to,
    and `swin_intended`, what they meant."""
    head_lr_factor: Above0 = 1.0
    """Factor of the classifier's rate, beside that of its group."""


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
class LabelSpec:
    """How labels become a loss (common/distill/losses.py)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    kind: Literal["one_of", "any_of"] = "one_of"
    """`one_of`: softmax and cross entropy; of a video with several labels one is drawn anew in
    every epoch. `any_of`: a sigmoid and binary cross entropy for each class, all labels at once."""
    smoothing: ProperFraction = 0.0
    """Share of the target that is spread evenly over all classes (of `any_of`: over yes
    and no)."""
    class_weights: Literal["balanced"] | tuple[Above0, ...] | None = None
    """Weight of each class in the loss, in the order of the index; `balanced` is in inverse
    proportion to its training videos; null weighs all alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """One training run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Positive
    """Passes over the training videos, one view of each video per pass. A finished run goes on when
    it is called with more of them."""
    batch_size: Positive = 64
    """Clips per optimiser step."""
    accumulation: Positive = 1
    """Parts that such a batch is computed in, one after the other, to save memory. Changes a result
    by roundings and draws of dropout only, except that BatchNorm sees one part at a time where
    batchnorm_group is null."""
    batchnorm_group: Positive | None = None
    """Clips that BatchNorm takes its statistics from in training: as many as on one of the GPUs of
    a published recipe, though all are computed at once. Each process cuts its clips of a step into
    equal groups of at most so many, and parts (accumulation) consist of whole groups; null takes
    all clips of a part."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    """Optimiser and its numbers."""
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    """Learning rate over time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the network's layers (autocast); weights and losses stay float32. float16
    scales the loss so that small gradients survive."""
    labels: LabelSpec = field(default_factory=LabelSpec)
    """What the labels ask for."""
    ema_decay: ProperFraction | None = None
    """Also keep a moving average of the weights with this decay per step, and measure and save
    that one; null keeps none."""
    sync_batchnorm: bool = False
    """BatchNorm over the clips of all processes instead of each one's own; GPUs only. A part of a
    step is left out by all where one of them has no clip for it: a last step of fewer clips than
    processes, or one process's videos are all unreadable."""
    compile: bool = False
    """Let torch.compile make the network faster; changes roundings. At most two graphs are made,
    for the commonest sizes of batches; others, such as those that lack videos, go without."""
    cuda_graphs: bool = False
    """Record the network's forward and backward pass once and let the GPU repeat them, which is
    faster where a step asks for many small kernels; they are the same ones, so results should stay,
    which no card has shown yet. For one process with a GPU; without effect on a CPU."""
    channels_last: bool = False
    """Keep the 3D layers of slowonly, swin3d and torchvision in the memory order that GPUs' tensor
    cores work in, which may be faster; changes roundings. 2D networks are always in that order."""
    order: Literal["shuffled", "blocks"] = "shuffled"
    """Order of the videos of an epoch. `blocks` reads runs of 64 rows of a cache one after the
    other, mixed in a window of 64 of them, for caches that do not fit into memory and lie on a disk
    that is slow at random (student_train/data/order.py)."""
    seed: Seed = 0
    """Key of initialisation, order of videos, drawn labels and dropout."""
    workers: Processes = 0
    """Processes that decode videos; 0 decodes in the training process. Never changes a result."""
    memory_gb: Weight = 0.0
    """Decoded videos that each of these processes keeps, in GB. Never changes a result."""
    freeze: tuple[str, ...] = ()
    """Beginnings of the names of parameters that are not trained, as they stand in the network's
    model.safetensors, such as `backbone.model.layer1.`; BatchNorm among them keeps its
    statistics."""
    keep: Positive = 2
    """Saved states that are kept, the newest ones."""

    def __post_init__(self) -> None:
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"accumulation {self.accumulation} exceeds batch_size {self.batch_size}: a batch "
                "cannot be cut into more parts than it has clips"
            )
        if self.batchnorm_group is not None and self.sync_batchnorm:
            raise ValueError(
                "batchnorm_group takes BatchNorm's statistics from few clips of one process, "
                "sync_batchnorm from the clips of all processes; leave one of them out"
            )
        if self.cuda_graphs and self.compile:
            raise ValueError("cuda_graphs and compile both record the network; leave one out")


ON_FEATURES: Final = ("feature_mse", "feature_mse_normalised")
"""Losses that compare feature maps."""
ON_LOGITS: Final = ("logit_kd", "dkd_target", "dkd_others", "dist_inter", "dist_intra")
"""Losses that compare the class scores of a clip."""
ON_LABEL_AND_LOGITS: Final = ("dkd_target", "dkd_others")
"""Of these, those that ask which class is the right one."""
_TAKEN: Final = frozenset(
    {
        *("cross_entropy", *ON_FEATURES, *ON_LOGITS, "logit_map_kl"),
        *("loss", "lr", "epoch", "step", "clips", "seconds", "train_top1"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnLossSpec:
    """A loss term of the user's (student_train/train/own_losses.py)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    loss: str
    """`package.module:build`, or an entry point of the group reskd.losses."""
    weight: Above0
    """Factor of its value."""
    targets: tuple[Literal["logits", "features", "logit_map"], ...] = ()
    """What it reads of the teacher."""
    args: dict[str, Any] = field(default_factory=dict, hash=False)
    """Arguments of `build`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSpec:
    """Weights of the student's loss terms; a term of weight 0 is not computed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    cross_entropy: Weight = 1.0
    """Against the labels, as training.labels says."""
    feature_mse: Weight = 100.0
    """Mean squared difference of feature maps on the teacher's grid."""
    feature_mse_normalised: Weight = 0.0
    """The same, each clip's divided by the variance of the teacher's map of it, so that a weight
    means the same for every backbone: 1 is what a map of one number, the mean, would score."""
    logit_kd: Weight = 0.0
    """KL divergence from the teacher's softened class scores."""
    dkd_target: Weight = 0.0
    """DKD (arXiv:2203.08679), its alpha: KL divergence between the probabilities of the labelled
    class and of all others together. Of videos with one label only."""
    dkd_others: Weight = 0.0
    """DKD, its beta: KL divergence among the other classes. The paper's recipe for ImageNet has 1
    and 0.5, for CIFAR-100 mostly 1 and 8 with temperature 4."""
    dist_inter: Weight = 0.0
    """DIST (arXiv:2205.10536), its beta: 1 less the correlation of a clip's softened class
    probabilities with the teacher's."""
    dist_intra: Weight = 0.0
    """DIST, its gamma: the same of a class's probabilities over the clips of a step on one device,
    all its parts (training.accumulation) together; several processes have a batch each."""
    temperature: Above0 = 2.0
    """Softening of the losses on class scores: logit_kd, dkd_... and dist_..."""
    standardise_logits: bool = False
    """Logit standardisation (arXiv:2403.01427): logit_kd and dkd_... take class scores of both
    networks less their mean over the classes, divided by their standard deviation."""
    logit_map_kl: Weight = 0.0
    """KL divergence from the teacher's softened class scores at every location."""
    logit_map_temperature: Above0 = 2.0
    """Softening of logit_map_kl."""
    own: dict[str, OwnLossSpec] = field(default_factory=dict, hash=False)
    """Loss terms of yours, by the names they have in logs, such as `{mine: {loss:
    "package.module:build", weight: 1, targets: [logits], args: {}}}`; what `build` returns is in
    student_train/train/own_losses.py."""

    def __post_init__(self) -> None:
        losses = ("cross_entropy", *ON_FEATURES, *ON_LOGITS, "logit_map_kl")
        if taken := [name for name in self.own if name in _TAKEN or not name.isidentifier()]:
            raise ValueError(
                f"own: {taken[0]!r} cannot be the name of a loss of yours: it stands in logs "
                "beside the others; take a word of letters that is not one of theirs"
            )
        if not self.with_weight(losses) and not self.own:
            raise ValueError("every weight is 0, so there is nothing to learn from")
        if self.standardise_logits and not self.with_weight(("logit_kd", *ON_LABEL_AND_LOGITS)):
            raise ValueError(
                "standardise_logits changes logit_kd and dkd_..., none of which has a weight: give "
                "one a weight, or leave it out"
            )

    def with_weight(self, names: Iterable[str]) -> list[str]:
        """Those of some losses that are computed."""
        return [name for name in names if getattr(self, name)]

    def weight_of(self, name: str) -> float:
        """Weight of a loss, one of the user's too."""
        return self.own[name].weight if name in self.own else float(getattr(self, name))
