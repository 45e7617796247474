"""One training step's arithmetic: a student, what it is compared with, and the weighted sum."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from torch import Tensor, nn

from reskd.common.distill.arrays import Grid
from reskd.common.distill.losses import label_loss
from reskd.common.experiment import LabelSpec, LossSpec
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.train.cuda_graphs import GraphedNetwork
from reskd.student_train.train.freeze import frozen_batchnorms
from reskd.student_train.train.ghost_batchnorm import ClipGroups
from reskd.student_train.train.pieces import in_pieces
from reskd.student_train.train.teacher_terms import TeacherTerms


class TaskOutput(NamedTuple):
    """What one step returns."""

    loss: Tensor
    """Weighted sum, to go backward from."""
    parts: dict[str, Tensor]
    """Unweighted loss terms by the name of their weight in the experiment, for logging; those of
    the second teacher are called `2/logit_kd` and so on."""
    logits_BK: Tensor
    """Class scores, for the training accuracy."""


class MoreTeacher(NamedTuple):
    """A teacher beside the first one."""

    losses: LossSpec
    """What is learned from it; the labels have no part."""
    channels: int | None
    """C of its stored feature maps."""
    grid: Grid | None
    """Of its own feature map."""


class Task(TeacherTerms):
    """A recognizer learning from labels and, where weights say so, from stored targets.

    Args:
        model: The network that is trained.
        losses: Weights; terms of weight 0 are not computed.
        labels: What the labels ask for.
        class_weights_K: Weights of the classes in the loss of the labels; None: all alike.
        teacher_channels: C of the stored feature maps; when the student has another C a 1x1
            convolution, trained with it and dropped afterwards, maps the one to the other.
        teacher_grid: Grid of the teacher's own feature map.
        more: Further teachers.
    """

    def __init__(
        self,
        model: Recognizer,
        losses: LossSpec,
        *,
        labels: LabelSpec,
        class_weights_K: Tensor | None = None,
        teacher_channels: int | None = None,
        teacher_grid: Grid | None = None,
        more: Sequence[MoreTeacher] = (),
    ) -> None:
        super().__init__(
            losses,
            student=model,
            teacher_channels=teacher_channels,
            teacher_grid=teacher_grid,
        )
        self.model, self.labels = model, labels
        # After the network, as optimisers of runs from before have them in order.
        self.adapter = self._modules.pop("adapter") or nn.Identity()
        self.class_weights_K: Tensor | None
        self.register_buffer("class_weights_K", class_weights_K, persistent=False)
        self.groups = ClipGroups()
        self.graphed: GraphedNetwork | None = None
        self.more = nn.ModuleList(
            TeacherTerms(
                teacher.losses,
                student=model,
                teacher_channels=teacher.channels,
                teacher_grid=teacher.grid,
            )
            for teacher in more
        )

    @property
    def teachers(self) -> dict[str, TeacherTerms]:
        """What is learned from each teacher, by what names of its targets and terms begin with."""
        more = {f"{number}/": terms for number, terms in enumerate(self.more, 2)}
        return {"": self, **more}  # type: ignore[dict-item]

    @property
    def of_whole_step(self) -> bool:
        """Whether a loss is of all clips that a device has of a step, not a mean over them."""
        return any(terms.losses.dist_intra for terms in self.teachers.values())

    def train(self, mode: bool = True) -> "Task":
        """Training mode, but for BatchNorm that is frozen."""
        super().train(mode)
        for layer in frozen_batchnorms(self):
            layer.eval()
        return self

    def forward(
        self, clips_BT3HW: Tensor, labels: Tensor, targets: dict[str, Tensor]
    ) -> TaskOutput:
        if self.graphed is None or self.groups.pieces:  # a piece is computed twice
            output = in_pieces(self.model, clips_BT3HW, self.groups)
        else:
            output = self.graphed(clips_BT3HW)
        if self.groups.weights is None:
            parts = self._compared(output, labels, targets)
        else:
            edges = pairwise(accumulate(self.groups.sizes, initial=0))
            groups = [
                self._compared(
                    ClipOutput(output.features_BTChw[first:last], output.logits_BK[first:last]),
                    labels[first:last],
                    {name: rows[first:last] for name, rows in targets.items()},
                )
                for first, last in edges
            ]
            parts = _weighted(groups, self.groups.weights)
        for start, terms in self.teachers.items():
            whole = terms.of_batch(output.logits_BK, _beginning(targets, start))
            parts |= {start + name: part for name, part in whole.items()}
        summed = [self._weight(name) * part for name, part in parts.items()]
        return TaskOutput(sum(summed[1:], summed[0]), parts, output.logits_BK)

    def _weight(self, part: str) -> float:
        number, slash, name = part.rpartition("/")
        return self.teachers[number + slash].losses.weight_of(name)

    def _compared(
        self, output: ClipOutput, labels: Tensor, targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The terms that are means over clips."""
        parts: dict[str, Tensor] = {}
        if self.losses.cross_entropy:
            parts["cross_entropy"] = label_loss(
                output.logits_BK, labels, self.labels, self.class_weights_K
            )
        for start, terms in self.teachers.items():
            own = terms.of_clips(self.model, output, labels, _beginning(targets, start))
            parts |= {start + name: part for name, part in own.items()}
        return parts


def _beginning(targets: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    """One teacher's targets by the names they have in its cache."""
    return {
        name.removeprefix(start): rows for name, rows in targets.items() if name.startswith(start)
    }


def _weighted(groups: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The terms of groups of clips as those of all of them."""

    def mean(values: Iterable[Tensor]) -> Tensor:
        terms = [weight * value for weight, value in zip(weights, values, strict=True)]
        return sum(terms[1:], terms[0])

    return {name: mean(group[name] for group in groups) for name in groups[0]}
