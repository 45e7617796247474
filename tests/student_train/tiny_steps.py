"""A task, batches and what a step may change, for tests that take single steps."""

from copy import deepcopy
from typing import Any, Final

import torch

from reskd.common.distill.arrays import Grid
from reskd.common.experiment import LabelSpec, LossSpec, ModelSpec
from reskd.common.models.registry import build_model
from reskd.student_train.data.batches import Batch
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.task import Task

LABELS_ALONE: Final = LossSpec(feature_mse=0.0)


def tiny_task(
    backbone: str = "test_resnet",
    recognizer: str = "tsn",
    losses: LossSpec = LABELS_ALONE,
    teacher_grid: Grid | None = None,
) -> Task:
    """A network of three classes that learns from labels; always of the same weights."""
    torch.manual_seed(0)
    spec = ModelSpec(recognizer=recognizer, backbone=backbone, dropout=0.0)  # type: ignore[arg-type]
    model = build_model(spec, num_classes=3)
    return Task(model, losses, labels=LabelSpec(), teacher_grid=teacher_grid)


def drawn_batch(seed: int, *, rank: int = 0, world: int = 1) -> Batch:
    """Four clips of two frames, or the part of them that one of two processes takes."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (4, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (4,), generator=generator)
    own = slice(4 * rank // world, 4 * (rank + 1) // world)
    return Batch(frames[own], labels[own], [0, 1, 2, 3][own], share=1 / world)


def unread_batch(*, world: int = 1) -> Batch:
    """What is left of a batch of which no video could be read."""
    return Batch(torch.empty(0), torch.empty(0, dtype=torch.int64), share=1 / world)


def state_of(stepper: Stepper) -> dict[str, Any]:
    """A copy of weights, optimiser and average, by names; the scaler's count of steps left out."""
    state = {f"task.{name}": value for name, value in stepper.task.state_dict().items()}
    for number, known in stepper.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in known.items()}
    if stepper.average is not None:
        state |= {f"average.{name}": value for name, value in stepper.average.state_dict().items()}
    state["scale"] = torch.tensor(stepper.scaler.get_scale())
    return deepcopy(state)


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names whose values are not the very same."""
    assert before.keys() == after.keys()
    return [name for name, value in before.items() if not torch.equal(value, after[name])]
