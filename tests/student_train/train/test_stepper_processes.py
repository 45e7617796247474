"""Steps of two processes: weights that no loss depends on, and steps that lack clips."""

from collections.abc import Callable
from math import inf
from typing import Any, Final, Literal

import pytest
import torch
from torch import Tensor

from reskd.common.experiment import TrainingSpec
from reskd.student_train.distributed import DelayedFlags, ProcessGroup
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


def _one_explodes(processes: ProcessGroup) -> list[str]:
    """What changes in weights and optimiser from a loss on that only the second process has."""
    stepper = Stepper(tiny_task("test_convnext"), TrainingSpec(epochs=1), processes, None)
    found: list[State] = []
    for seed, ceiling in ((0, inf), (1, inf if processes.is_first else 0.0), (2, inf)):
        batch = drawn_batch(seed, rank=processes.rank, world=processes.world)
        stepper.forward_backward(batch, ceiling)
        stepper.step(LR)
        found.append(state_of(stepper))
    assert not stepper.guard.well
    return [*changed(found[0], found[1]), *changed(found[1], found[2])]


def _flags_come_one_exchange_later(processes: ProcessGroup) -> list[list[bool]]:
    """Of three exchanges; the second process alone sets one, in the first of them."""
    flags = DelayedFlags(processes)
    found = [flags.exchange(not processes.is_first, False)]
    found += [flags.exchange(False, False) for _ in range(2)]
    flags.forget()
    return [*found, flags.exchange(True, True)]


SITUATIONS: tuple[Callable[[ProcessGroup], Any], ...] = (
    _three_steps,
    _one_has_no_clips,
    _none_has_clips,
    _one_explodes,
    _flags_come_one_exchange_later,
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


def test_loss_that_explodes_in_one_process_leaves_the_weights_of_all_what_they_were(
    found: list[dict[str, Any]],
) -> None:
    assert [own["_one_explodes"] for own in found] == [[]] * WORLD


def test_flags_of_all_processes_are_known_one_exchange_later(found: list[dict[str, Any]]) -> None:
    nothing = [False, False]
    expected = [nothing, [True, False], nothing, nothing]
    assert [own["_flags_come_one_exchange_later"] for own in found] == [expected] * WORLD
    assert DelayedFlags(ALONE).exchange(True, False) == [True, False]
