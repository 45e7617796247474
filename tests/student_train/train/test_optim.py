"""What is trained at which rate and decay; learning rates worked out on paper."""

from copy import deepcopy
from itertools import pairwise
from math import sqrt
from typing import Any, Literal

import pytest
import torch
from torch import nn

from reskd.common.experiment import OptimizerSpec, ScheduleSpec
from reskd.student_train.train.optim import (
    RATE,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)
from tests.student_train.tiny_steps import tiny_task

COSINE = ScheduleSpec()
STEP = ScheduleSpec(name="step", milestones=(90, 130))


def _layer_with_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_optimizer_of_layer_with_norm_is_one_group_over_everything() -> None:
    module = _layer_with_norm()
    spec = OptimizerSpec(name="sgd", lr=0.5, momentum=0.25, weight_decay=0.125)
    (group,) = build_optimizer(module, spec).param_groups
    assert {id(parameter) for parameter in group["params"]} == set(map(id, module.parameters()))
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.25, 0.125)
    assert not group["nesterov"]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizer_without_gradient_decays_norm_and_bias_too(
    name: Literal["sgd", "adamw"],
) -> None:
    module = _layer_with_norm()
    nn.init.constant_(module.get_parameter("0.bias"), 2.0)
    spec = OptimizerSpec(name=name, lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(module, spec)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # One step of decay: x (1 - lr * decay), coupled or not, since the gradient is zero.
    assert torch.equal(module.get_parameter("1.weight"), torch.full((4,), 0.95))
    assert module.get_parameter("0.bias").tolist() == pytest.approx([1.9] * 4)


@pytest.mark.parametrize(("groups", "bias"), [("one", (5, 1)), ("by_kind", (10, 0))])
def test_head_factor_multiplies_the_rate_of_the_classifier_alone(
    groups: str, bias: tuple[float, float]
) -> None:
    task = tiny_task()
    head = {f"model.{name}" for name in task.model.classifier_tensors}
    assert head == {"model.classifier.weight", "model.classifier.bias"}
    plain, raised = (_factors(task, groups, head_lr_factor=factor) for factor in (1.0, 5.0))
    assert {name for name in plain if raised[name] != plain[name]} == head
    assert [raised[f"model.classifier.{name}"] for name in ("weight", "bias")] == [(5, 1), bias]


def test_optimizer_named_adamw_is_adamw() -> None:
    spec = OptimizerSpec(name="adamw", lr=0.1, weight_decay=0.0)
    weight = nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = build_optimizer(nn.ParameterList([weight]), spec)
    weight.grad = torch.tensor([1e-3, -1e3])
    optimizer.step()
    # Adam's first step is lr * sign(gradient), whatever its size.
    assert weight.tolist() == pytest.approx([0.9, -0.9], abs=1e-5)


def _swin() -> nn.Module:
    """Names as in a task whose recognizer is a Swin."""
    backbone = nn.Module()
    backbone.add_module("norm", nn.LayerNorm(2))
    backbone.add_module("fc", nn.Linear(2, 2))
    backbone.register_parameter("relative_position_bias_table", nn.Parameter(torch.zeros(3, 1)))
    parts = {"backbone": backbone, "classifier": nn.Linear(2, 2)}
    return nn.ModuleDict({"model": nn.ModuleDict(parts)})


def _factors(module: nn.Module, groups: str, **settings: float) -> dict[str, tuple[float, float]]:
    named: dict[str, Any] = {"name": "adamw", "groups": groups, **settings}
    spec = OptimizerSpec(lr=1.0, weight_decay=1.0, **named)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in build_optimizer(module, spec).param_groups
        for parameter in group["params"]
    }
    return {name: found[id(parameter)] for name, parameter in module.named_parameters()}


def test_groups_by_kind_spare_norms_and_biases_the_decay() -> None:
    assert _factors(_layer_with_norm(), "by_kind") == {
        "0.weight": (1, 1),
        "0.bias": (2, 0),
        "1.weight": (1, 0),
        "1.bias": (1, 0),
    }


@pytest.mark.parametrize(
    ("groups", "table", "norm", "bias"),
    [("swin", (1, 0), (0.1, 1), (0.1, 1)), ("swin_intended", (0.1, 0), (0.1, 0), (0.1, 1))],
)
def test_swin_groups_are_what_the_published_rules_come_to(
    groups: str,
    table: tuple[float, float],
    norm: tuple[float, float],
    bias: tuple[float, float],
) -> None:
    assert _factors(_swin(), groups) == {
        "model.backbone.relative_position_bias_table": table,
        "model.backbone.norm.weight": norm,
        "model.backbone.norm.bias": norm,
        "model.backbone.fc.weight": (0.1, 1),
        "model.backbone.fc.bias": bias,
        "model.classifier.weight": (1, 1),
        "model.classifier.bias": (1, 1),
    }


def test_learning_rate_of_a_step_reaches_each_group_by_its_factor() -> None:
    optimizer = build_optimizer(_layer_with_norm(), OptimizerSpec(lr=1.0, groups="by_kind"))
    set_learning_rate(optimizer, 0.5)
    assert sorted(group["lr"] for group in optimizer.param_groups) == [0.5, 0.5, 1.0]


def test_frozen_parameters_are_left_out() -> None:
    module = _layer_with_norm()
    module.get_parameter("0.weight").requires_grad = False
    groups = build_optimizer(module, OptimizerSpec()).param_groups
    assert sum(len(group["params"]) for group in groups) == 3


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1.0), (1, 0.5 + sqrt(3) / 4), (2, 0.75), (3, 0.5), (4, 0.25), (5, 0.5 - sqrt(3) / 4)],
)
def test_cosine_of_six_epochs_matches_hand_values(epoch: int, factor: float) -> None:
    lr = learning_rate(0.04, COSINE, epoch=epoch, epochs=6)
    assert lr == pytest.approx(0.04 * factor)
    assert lr == learning_rate(0.04, COSINE, epoch=epoch, epochs=6, step=7, steps_per_epoch=9)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1), (89, 1), (90, 0.1), (129, 0.1), (130, 0.01), (149, 0.01)]
)
def test_steps_fall_at_their_milestones(epoch: int, factor: float) -> None:
    assert learning_rate(0.01, STEP, epoch=epoch, epochs=150) == pytest.approx(0.01 * factor)


def test_warm_up_rises_by_step_from_its_ratio_to_the_curve() -> None:
    schedule = ScheduleSpec(name="step", milestones=(90,), warmup_epochs=10)
    rates = [
        learning_rate(1.0, schedule, epoch=n // 4, epochs=150, step=n % 4, steps_per_epoch=4)
        for n in range(44)
    ]
    assert rates[0] == pytest.approx(0.1)
    assert rates[20] == pytest.approx(0.55)
    assert rates[40:] == [1.0] * 4
    assert all(later > earlier for earlier, later in pairwise(rates[:41]))


def test_warm_up_of_a_part_of_an_epoch_ends_within_it_and_follows_the_cosine() -> None:
    schedule = ScheduleSpec(warmup_epochs=2.5)

    def rate(epoch: int, step: int) -> float:
        return learning_rate(1.0, schedule, epoch=epoch, epochs=30, step=step, steps_per_epoch=4)

    curve = learning_rate(1.0, COSINE, epoch=2, epochs=30)
    assert rate(2, 1) == pytest.approx(curve * (1 - (1 - 9 / 10) * 0.9))
    assert rate(2, 2) == pytest.approx(curve)


def test_warm_up_that_ends_between_two_steps_holds_its_last_rate_until_the_next_epoch() -> None:
    schedule = ScheduleSpec(warmup_epochs=2.5)  # 17.5 steps, 7 an epoch

    def rate(step: int) -> float:
        return learning_rate(
            1.0, schedule, epoch=step // 7, epochs=30, step=step % 7, steps_per_epoch=7
        )

    def curve(epoch: int) -> float:
        return learning_rate(1.0, COSINE, epoch=epoch, epochs=30)

    for step in range(18):
        assert rate(step) == pytest.approx(curve(step // 7) * (1 - (1 - step / 17.5) * 0.9))
    assert [rate(step) for step in (18, 19, 20)] == [rate(17)] * 3
    assert rate(21) == pytest.approx(curve(3))


def test_warm_up_shorter_than_a_step_holds_its_first_rate_for_one_epoch() -> None:
    schedule = ScheduleSpec(warmup_epochs=0.1)
    rates = [
        learning_rate(1.0, schedule, epoch=n // 4, epochs=30, step=n % 4, steps_per_epoch=4)
        for n in range(5)
    ]
    assert rates[:4] == pytest.approx([0.1] * 4)
    assert rates[4] == learning_rate(1.0, COSINE, epoch=1, epochs=30)


def test_schedules_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="needs milestones"):
        ScheduleSpec(name="step")
    with pytest.raises(ValueError, match="cosine has none"):
        ScheduleSpec(milestones=(3,))


def _conv(memory_format: torch.memory_format) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 2).to(memory_format=memory_format)


def _take_step(optimizer: torch.optim.Optimizer, module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(drawn)
    optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_optimizer_goes_on_from_a_state_of_other_steps_and_another_order_in_memory(
    kind: type[torch.optim.SGD] | type[torch.optim.AdamW],
) -> None:
    """One that was not fused, and kept some momentum only; the weights were channels-first."""
    is_sgd = kind is torch.optim.SGD
    spec = OptimizerSpec(name="sgd" if is_sgd else "adamw", lr=0.1, weight_decay=0.01)
    plain = _conv(torch.contiguous_format)
    settings: dict[str, Any] = {
        "lr": 0.1,
        "weight_decay": 0.01,
        **({"momentum": 0.9} if is_sgd else {}),
    }
    unfused = kind([{"params": list(plain.parameters()), RATE: 1}], **settings)
    _take_step(unfused, plain, 0)

    turned = _conv(torch.channels_last)
    optimizer = build_optimizer(turned, spec)
    turned.load_state_dict(plain.state_dict())
    optimizer.load_state_dict(deepcopy(unfused.state_dict()))
    for seed in (1, 2):
        _take_step(unfused, plain, seed)
        _take_step(optimizer, turned, seed)
    assert turned.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(turned.weight, plain.weight)
    torch.testing.assert_close(turned.bias, plain.bias)


def test_momentum_that_begins_with_a_step_that_is_left_out_is_zero() -> None:
    module = _conv(torch.contiguous_format)
    optimizer = build_optimizer(module, OptimizerSpec())
    before = [parameter.clone() for parameter in module.parameters()]
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    _take_step(optimizer, module, 0)
    for parameter, expected in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, expected)
        assert not optimizer.state[parameter]["momentum_buffer"].any()
