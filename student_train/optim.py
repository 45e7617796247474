"""Optimisers: which parameters share a learning rate and a weight decay.

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

Rate and decay are factors of the experiment's. The reference declares finer groups for its 2D
recipes than `one`, but that code never runs; in its Swin recipes the rules for bias tables and
norms are shadowed by others. Its published results come from `one`, `swin` and, for TSM and
teachers on ResNets, `by_kind`.

Source: ResKD reference, optimiser constructors and paramwise rules.
"""

from collections import defaultdict
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.specs import OptimizerSpec

RATE: Final = "rate"
"""Key in a parameter group: factor of the learning rate."""
_NORMS: Final = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
_BIAS_TABLE: Final = "relative_position_bias_table"

Factors = tuple[float, float]


def build_optimizer(module: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """Make the optimiser of everything in a module that is trained.

    Every group has its factor of the learning rate under RATE, see `set_learning_rate`.

    Args:
        module: A task: parameters of its recognizer's backbone are named `model.backbone...`.
        spec: Optimiser and groups.
    """
    groups: dict[Factors, list[nn.Parameter]] = defaultdict(list)
    for owner_name, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                factors = _factors(spec, owner, f"{owner_name}.{name}")
                groups[factors].append(parameter)
    settings: list[dict[str, Any]] = [
        {
            "params": parameters,
            RATE: rate,
            "lr": spec.lr * rate,
            "weight_decay": spec.weight_decay * decay,
        }
        for (rate, decay), parameters in groups.items()
    ]
    if spec.name == "adamw":
        return torch.optim.AdamW(settings, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(
        settings, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next step; each group takes its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[RATE]


def _factors(spec: OptimizerSpec, owner: nn.Module, name: str) -> Factors:
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
            return (0.1, 1) if ".backbone." in name else (1, 1)
        case "swin_intended":
            if ".backbone." not in name:
                return 1, 1
            return (0.1, 0) if is_norm or name.endswith(_BIAS_TABLE) else (0.1, 1)
