"""Optimisers and the learning rate of an epoch."""

from collections.abc import Iterable
from math import cos, pi

import torch
from torch import nn

from common.specs import OptimizerSpec


def build_optimizer(
    parameters: Iterable[nn.Parameter], spec: OptimizerSpec
) -> torch.optim.Optimizer:
    """One group over all parameters, weight decay on BatchNorm and biases included.

    The reference declares finer groups, but its constructor never runs; its published results come
    from a single group.
    """
    if spec.name == "adamw":
        return torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(
        parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
    )


def cosine_lr(base_lr: float, *, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch: half a cosine from base_lr that would reach 0 at `epochs`.

    Constant within an epoch. Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5,
    stepped by epoch as the ResKD reference does.
    """
    return 0.5 * base_lr * (1 + cos(pi * epoch / epochs))
