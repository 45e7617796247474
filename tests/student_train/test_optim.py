"""tests/student_train/test_optim.py: learning rates worked out on paper, and the one group."""

from math import sqrt
from typing import Literal

import pytest
import torch
from torch import nn

from common.specs import OptimizerSpec
from student_train.optim import build_optimizer, cosine_lr


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1.0), (1, 0.5 + sqrt(3) / 4), (2, 0.75), (3, 0.5), (4, 0.25), (5, 0.5 - sqrt(3) / 4)],
)
def test_cosine_lr_of_six_epochs_matches_hand_values(epoch: int, factor: float) -> None:
    assert cosine_lr(0.04, epoch=epoch, epochs=6) == pytest.approx(0.04 * factor)


def _layer_with_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_optimizer_of_layer_with_norm_is_one_group_over_everything() -> None:
    module = _layer_with_norm()
    spec = OptimizerSpec(name="sgd", lr=0.5, momentum=0.25, weight_decay=0.125)
    (group,) = build_optimizer(module.parameters(), spec).param_groups
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
    optimizer = build_optimizer(module.parameters(), spec)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # One step of decay: x (1 - lr * decay), coupled or not, since the gradient is zero.
    assert torch.equal(module.get_parameter("1.weight"), torch.full((4,), 0.95))
    assert module.get_parameter("0.bias").tolist() == pytest.approx([1.9] * 4)


def test_optimizer_named_adamw_is_adamw() -> None:
    spec = OptimizerSpec(name="adamw", lr=0.1, weight_decay=0.0)
    weight = nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = build_optimizer([weight], spec)
    weight.grad = torch.tensor([1e-3, -1e3])
    optimizer.step()
    # Adam's first step is lr * sign(gradient), whatever its size.
    assert weight.tolist() == pytest.approx([0.9, -0.9], abs=1e-5)
