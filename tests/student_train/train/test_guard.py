"""A step that went wrong leaves everything what it met, and steps do not wait for the device."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from reskd.common.experiment import LossSpec, OptimizerSpec, TrainingSpec
from reskd.student_train.data.batches import Batch
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.state import RunPosition
from reskd.student_train.train.look_back import LookBack, TakenPart
from reskd.student_train.train.meters import Figures, counts_of
from reskd.student_train.train.stepper import PartResult, Stepper
from tests.student_train.counted_waits import counted_waits
from tests.student_train.tiny_steps import changed, drawn_batch, state_of, tiny_task
from tests.tiny_experiment import ALONE

SGD: Final = TrainingSpec(epochs=1, ema_decay=0.5)
ADAMW: Final = replace(SGD, optimizer=OptimizerSpec(name="adamw", lr=0.01, clip_norm=None))


def _not_finite(stepper: Stepper, monkeypatch: pytest.MonkeyPatch) -> PartResult | None:
    """In the first layer, so that the statistics of every BatchNorm are spoiled too."""

    def strange(clips: Tensor) -> Tensor:
        return torch.full(clips.shape, torch.inf)

    with monkeypatch.context() as patch:
        patch.setattr(stepper.task.model, "normalize", strange)
        return stepper.forward_backward(drawn_batch(9))


def _gradient_not_finite(stepper: Stepper, _: pytest.MonkeyPatch) -> PartResult | None:
    return stepper.forward_backward(replace(drawn_batch(9), share=torch.nan))


def _exploded(stepper: Stepper, _: pytest.MonkeyPatch) -> PartResult | None:
    return stepper.forward_backward(drawn_batch(9), ceiling=torch.tensor(1e-6))


Spoil = Callable[[Stepper, pytest.MonkeyPatch], PartResult | None]


@pytest.mark.parametrize("steps_before", [0, 2], ids=["first", "later"])
@pytest.mark.parametrize("spoil", [_not_finite, _gradient_not_finite, _exploded])
@pytest.mark.parametrize("spec", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_steps_from_a_bad_one_on_change_neither_weights_nor_average_nor_optimizer(
    spec: TrainingSpec, spoil: Spoil, steps_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper = Stepper(tiny_task(), spec, ALONE, None)
    for seed in range(steps_before):
        stepper.forward_backward(drawn_batch(seed))
        stepper.step(0.1)
    assert stepper.guard.well
    before = state_of(stepper)
    spoil(stepper, monkeypatch)
    stepper.step(0.1)
    assert not stepper.guard.well
    for seed in (3, 4):  # taken before the host looks
        stepper.forward_backward(drawn_batch(seed))
        stepper.step(0.1)
    after = state_of(stepper)
    if not steps_before and spec is ADAMW:  # which makes its state, zeros, with its first step
        assert not any(value.any() for name, value in after.items() if name not in before)
        after = {name: value for name, value in after.items() if name in before}
    assert [name for name in changed(before, after) if not _is_buffer(name)] == []


def _is_buffer(name: str) -> bool:
    """Of the task: its own forward pass writes to them."""
    return name.startswith("task.") and name.rsplit(".", 1)[-1] in (
        *("running_mean", "running_var", "num_batches_tracked"),
    )


@pytest.mark.parametrize("scale", [2.0**16, 1.0], ids=["a-smaller-one-may-do", "smallest"])
def test_gradient_too_large_for_float16_asks_for_a_smaller_scale_while_there_is_one(
    scale: float,
) -> None:
    stepper = Stepper(tiny_task(), replace(SGD, precision="float16"), ALONE, None)
    stepper.forward_backward(drawn_batch(0))
    stepper.scaler.update(scale)
    stepper.step(0.1)
    before = state_of(stepper)
    _gradient_not_finite(stepper, pytest.MonkeyPatch())
    stepper.step(0.1)
    after = state_of(stepper)
    assert bool(stepper.guard.well) is (scale > 1.0)
    assert after.pop("scale") == (scale if scale == 1.0 else before["scale"] / 2)
    before.pop("scale")
    assert [name for name in changed(before, after) if not _is_buffer(name)] == []


def test_average_takes_the_newest_number_of_batches() -> None:
    stepper = Stepper(tiny_task(), SGD, ALONE, None)
    for seed in range(3):
        stepper.forward_backward(drawn_batch(seed))
        stepper.step(0.1)
    counts = {
        int(value)
        for name, value in stepper.model.state_dict().items()
        if name.endswith("num_batches_tracked")
    }
    assert counts == {3}


def test_newest_part_is_looked_at_with_the_next_one_or_when_it_is_asked_for() -> None:
    stepper = Stepper(tiny_task(), SGD, ALONE, None)
    refused: list[tuple[int, str]] = []

    class RefusedError(Exception):
        pass

    def refuse(part: TakenPart, problem: str) -> Any:
        refused.append((part.place.step, problem))
        return RefusedError()

    def take(look_back: LookBack, step: int, share: float) -> None:
        result = stepper.forward_backward(replace(drawn_batch(step), share=share))
        norm = stepper.step(0.1)
        place = RunPosition(step=step)
        look_back.at(TakenPart(drawn_batch(step), place, result, torch.inf, norm), None)

    look_back = LookBack(stepper.guard, refuse)
    take(look_back, 0, 1.0)
    take(look_back, 1, torch.nan)  # not looked at yet
    assert refused == []
    with pytest.raises(RefusedError):
        take(look_back, 2, 1.0)
    assert refused == [(1, "The gradient has norm nan")]
    with pytest.raises(RefusedError):
        look_back.at_all()
    look_back.at_all()  # nothing is left to look at


def _take_steps(stepper: Stepper, batches: list[Batch]) -> None:
    """As the loop does."""
    look_back = LookBack(stepper.guard, lambda part, problem: pytest.fail(problem))
    figures = Figures({})
    for step, batch in enumerate(batches):
        ceiling = figures.ceiling()
        result = stepper.forward_backward(batch, ceiling)
        assert result is not None
        norm = stepper.step(0.01)
        figures.add(counts_of(result))
        place = RunPosition(step=step)
        look_back.at(TakenPart(batch, place, result, ceiling, norm), figures.mean_loss())


def _learner(spec: TrainingSpec, processes: ProcessGroup) -> tuple[Stepper, list[Batch]]:
    """Of labels, feature maps and class scores, with steps enough for a ceiling of the loss."""
    task = tiny_task(losses=LossSpec(feature_mse=1.0, logit_kd=1.0), teacher_grid=(3, 3))
    batches = [_with_targets(drawn_batch(seed), task.model.num_features) for seed in range(24)]
    return Stepper(task, spec, processes, None), batches


PRECISIONS: Final = pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
OPTIMIZERS: Final = pytest.mark.parametrize("spec", [SGD, ADAMW], ids=["sgd", "adamw"])


@PRECISIONS
@OPTIMIZERS
def test_steps_ask_for_no_value(spec: TrainingSpec, precision: Any) -> None:
    stepper, batches = _learner(replace(spec, precision=precision), ALONE)
    with counted_waits() as waits:
        _take_steps(stepper, batches)
    assert waits == Counter()
    with counted_waits() as waits:
        float(torch.ones(()))
    assert waits == Counter({"__float__": 1})


@pytest.mark.gpu
@PRECISIONS
@OPTIMIZERS
def test_steps_on_a_gpu_wait_for_nothing(spec: TrainingSpec, precision: Any) -> None:
    processes = ProcessGroup(torch.device("cuda"))
    stepper, batches = _learner(replace(spec, precision=precision), processes)
    _take_steps(stepper, batches[:2])  # makes what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        _take_steps(stepper, batches[2:])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _with_targets(batch: Batch, channels: int) -> Batch:
    """Of a teacher with the student's channels, its map on the student's grid."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(batch), 2, channels, 1, 1, generator=generator)
    targets = {
        "features": features.half(),
        "feature_residual": torch.ones(len(batch)),
        "logits": torch.randn(len(batch), 3, generator=generator),
    }
    return replace(batch, targets=targets)
