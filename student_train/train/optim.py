"""Optimisers: rate and weight decay of every parameter, and the rate of every step.

| groups | parameters | rate | decay |
|---|---|---|---|
| one | all | 1 | 1 |
| by_kind | weights | 1 | 1 |
| | biases of convolutions and linear layers | 2 | 0 |
| | normalisation layers | 1 | 0 |
| swin | bias tables | 1 | 0 |
| | all else of the backbone, normalisation layers included | 0.1 | 1 |
| | classifier (and adapter) | 1 | 1 |
| swin_intended | bias tables, normalisation layers of the backbone | 0.1 | 0 |
| | all else of the backbone | 0.1 | 1 |
| | classifier (and adapter) | 1 | 1 |

Rate and decay are factors of the experiment's; `head_lr_factor` is one more of the classifier's
rate. The reference declares finer groups for its 2D recipes than `one`, but that code never runs;
in its Swin recipes the rules for bias tables and norms are shadowed by others. Its published
results come from `one`, `swin` and, for TSM and teachers on ResNets, `by_kind`.

The experiment's rate is lowered along a curve over epochs, constant within each. A warm-up before
that rises with every step.

Source: ResKD reference, optimiser constructors, paramwise rules and schedules, which follow mmcv's.
"""

from collections import defaultdict
from math import cos, pi
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.experiment import OptimizerSpec, ScheduleSpec
from reskd.common.models.recognizer import Recognizer

RATE: Final = "rate"
"""Key in a parameter group: factor of the learning rate."""
_NORMS: Final = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
_BIAS_TABLE: Final = "relative_position_bias_table"

Factors = tuple[float, float]


def build_optimizer(module: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """Make the optimiser of everything in a module that is trained.

    It computes all of a step in one call, which leaves everything what it is where a 0-d float32
    `found_inf` is set on the optimiser and says 1 (torch.amp's own way to leave a step out).

    Every group has its factor of the learning rate under RATE, see `set_learning_rate`.

    Args:
        module: A task: parameters of its recognizer's backbone are named `model.backbone...`.
        spec: Optimiser and groups.
    """
    groups: dict[Factors, list[nn.Parameter]] = defaultdict(list)
    classifier = _classifier(module)
    for owner_name, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                full_name = f"{owner_name}.{name}"
                in_head = full_name in classifier
                inside = ".backbone." in full_name and not in_head
                rate, decay = _factors(spec, owner, full_name, in_backbone=inside)
                rate *= spec.head_lr_factor if in_head else 1
                groups[rate, decay].append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": parameters,
            RATE: rate,
            "lr": spec.lr * rate,
            "weight_decay": spec.weight_decay * decay,
        }
        for (rate, decay), parameters in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if spec.name == "adamw":
        optimizer = torch.optim.AdamW(
            settings, lr=spec.lr, weight_decay=spec.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            settings,
            lr=spec.lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            fused=True,
        )
    optimizer.register_load_state_dict_pre_hook(_stay_fused)
    optimizer.register_load_state_dict_post_hook(_lay_out_state)
    _lay_out_state(optimizer)
    return optimizer


def _stay_fused(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """States say how the steps before them were computed, which needs not be how these are."""
    groups = [{**group, "fused": True, "foreach": None} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def _lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its momentum, and that the parameter's own order in memory.

    The fused steps go through both as they lie, and leave a momentum that begins with a step that
    is left out without a value. An order may differ where channels_last was changed in between.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if group.get("momentum") and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            for name, value in state.items():
                if value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter).copy_(value)


def _classifier(module: nn.Module) -> set[str]:
    """Names of the classifiers' tensors; those of a model with its own head lie in its backbone."""
    return {
        f"{owner_name}.{name}"
        for owner_name, owner in module.named_modules()
        if isinstance(owner, Recognizer)
        for name in owner.classifier_tensors
    }


def _factors(spec: OptimizerSpec, owner: nn.Module, name: str, *, in_backbone: bool) -> Factors:
    """Factors of rate and decay of one parameter."""
    is_norm = isinstance(owner, _NORMS)
    match spec.groups:
        case "one":
            return 1, 1
        case "by_kind":
            if is_norm:
                return 1, 0
            return (2, 0) if name.endswith(".bias") else (1, 1)
        case "swin":
            if name.endswith(_BIAS_TABLE):
                return 1, 0
            return (0.1, 1) if in_backbone else (1, 1)
        case "swin_intended":
            if not in_backbone:
                return 1, 1
            return (0.1, 0) if is_norm or name.endswith(_BIAS_TABLE) else (0.1, 1)


def learning_rate(
    base_lr: float,
    schedule: ScheduleSpec,
    *,
    epoch: int,
    epochs: int,
    step: int = 0,
    steps_per_epoch: int = 1,
) -> float:
    """Learning rate of one step.

    Args:
        base_lr: What the curve starts from.
        schedule: Which curve, and how long the warm-up is.
        epoch: From 0.
        epochs: In all.
        step: Within the epoch, from 0.
        steps_per_epoch: Steps of a whole epoch.
    """
    regular = _curve(base_lr, schedule, epoch=epoch, epochs=epochs)
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    last = int(warmup_steps)
    step_of_run = epoch * steps_per_epoch + step
    if warmup_steps != last and epoch == last // steps_per_epoch:
        # The reference returns to the curve at the step that ends the warm-up, or when an epoch
        # begins. No step ends a warm-up of 17.5: the rate of step 17 holds until the next epoch.
        step_of_run = min(step_of_run, last)
    if step_of_run >= warmup_steps:
        return regular
    return regular * (1 - (1 - step_of_run / warmup_steps) * (1 - schedule.warmup_ratio))


def _curve(base_lr: float, schedule: ScheduleSpec, *, epoch: int, epochs: int) -> float:
    if schedule.name == "cosine":  # Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5
        return 0.5 * base_lr * (1 + cos(pi * epoch / epochs))
    passed = sum(milestone <= epoch for milestone in schedule.milestones)
    lowered: float = base_lr * schedule.gamma**passed
    return lowered


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next step; each group takes its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[RATE]
