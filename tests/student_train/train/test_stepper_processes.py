"""Steps of two processes: weights that no loss depends on, and steps that lack clips."""

from collections.abc import Callable
from typing import Any, Final, Literal

import pytest
import torch
from torch import Tensor

from reskd.common.experiment import TrainingSpec
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.stepper import Stepper
from tests.student_train.tiny_steps import changed, drawn_batch, state_of, tiny_task, unread_batch
from tests.student_train.two_processes import WORLD, in_one_group
from tests.tiny_experiment import ALONE

PRECISIONS: Final[tuple[Literal["float32", "float16"], ...]] = ("float32", "float16")
LR = 0.1
UNUSED = "task.model.backbone.model.head.norm."
"""Weights of test_convnext behind its feature map."""

State = dict[str, Tensor]


def _three_steps(processes: ProcessGroup) -> State:
    """Of a network without BatchNorm, so that it does not matter how a batch is cut."""
    stepper = Stepper(tiny_task("test_convnext"), TrainingSpec(epochs=1), processes, None)
    for seed in range(3):
        stepper.forward_backward(drawn_batch(seed, rank=processes.rank, world=processes.world))
        stepper.step(LR)
    return state_of(stepper)


def _one_has_no_clips(processes: ProcessGroup) -> list[State]:
    """In the very first step in float16; before and after it, and after one more."""
    stepper = Stepper(tiny_task(), TrainingSpec(epochs=1, precision="float16"), processes, None)
    states = [state_of(stepper)]
    for seed in range(2):
        batch = drawn_batch(seed, rank=processes.rank, world=processes.world)
        without = seed == 0 and not processes.is_first
        stepper.forward_backward(unread_batch(world=processes.world) if without else batch)
        stepper.step(LR)
        states.append(state_of(stepper))
    return states


def _none_has_clips(processes: ProcessGroup) -> list[list[str]]:
    """What changes in such a step, by precision; it comes first, or there is momentum already."""
    found = []
    for precision in PRECISIONS:
        spec = TrainingSpec(epochs=1, precision=precision, ema_decay=0.5)
        stepper = Stepper(tiny_task(), spec, processes, None)
        for seed in range(2):
            before = state_of(stepper)
            stepper.forward_backward(unread_batch(world=processes.world))
            stepper.step(LR)
            found.append(changed(before, state_of(stepper)))
            stepper.forward_backward(drawn_batch(seed, rank=processes.rank, world=processes.world))
            stepper.step(LR)
    return found


SITUATIONS: tuple[Callable[[ProcessGroup], Any], ...] = (
    _three_steps,
    _one_has_no_clips,
    _none_has_clips,
)


def _all_situations(processes: ProcessGroup) -> dict[str, Any]:
    return {one.__name__: one(processes) for one in SITUATIONS}


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """What each process has found, all in the same two, since starting these is slow."""
    return in_one_group(_all_situations)


def test_network_with_weights_that_no_loss_depends_on_trains_as_one_process_does(
    found: list[dict[str, Any]],
) -> None:
    one, other = (own["_three_steps"] for own in found)
    alone = _three_steps(ALONE)
    assert changed(one, other) == []
    assert any(name.startswith(UNUSED) for name in one)
    for name, value in alone.items():
        if name.startswith("task."):
            torch.testing.assert_close(one[name], value, rtol=1e-3, atol=1e-5)


def test_step_in_float16_without_clips_in_one_process_learns_from_the_others(
    found: list[dict[str, Any]],
) -> None:
    weights = [
        [{name: state[name] for name in state if name.endswith("weight")} for state in states]
        for states in (own["_one_has_no_clips"] for own in found)
    ]
    for one, other in zip(*weights, strict=True):
        assert changed(one, other) == []
    before, first, second = weights[0]
    assert changed(before, first)
    assert changed(first, second)


def test_step_without_clips_in_any_process_changes_nothing(found: list[dict[str, Any]]) -> None:
    assert [own["_none_has_clips"] for own in found] == [[[]] * 4] * WORLD
