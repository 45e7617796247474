"""Ghost BatchNorm: statistics of groups of the clips that are computed at once.

A step on many GPUs takes BatchNorm's statistics from the few clips of each one. Here one forward
pass over all clips of a device does the same: every layer normalises group after group.

Source: Hoffer, Hubara, Soudry 2017, arXiv:1705.08741.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.errors import ExperimentError


@dataclass(slots=True)
class ClipGroups:
    """How the clips of the coming forward pass fall into groups; set before it."""

    sizes: tuple[int, ...] = ()
    """Clips of each group, in order; none: all clips are one group."""
    weights: tuple[float, ...] | None = None
    """Part that each group's loss has in that of all; None: each by its clips."""


class GhostBatchNorm(_BatchNorm):
    """What a BatchNorm layer becomes in training; everything else stays what its own class says.

    Rows of its input are those of the clips, one clip after the other: frames, for layers of 2D
    networks. Running statistics take the groups in order, as if each were a batch of its own.
    """

    groups: ClipGroups

    def forward(self, input: Tensor) -> Tensor:
        sizes = self.groups.sizes
        if not self.training or len(sizes) < 2:
            return super().forward(input)
        rows, beyond = divmod(input.shape[0], sum(sizes))
        if beyond:
            raise ExperimentError(
                f"A BatchNorm layer has {input.shape[0]} rows for {sum(sizes)} clips, so they "
                "cannot be told apart. Set training.batchnorm_group to null for this network."
            )
        # Slices lie together in memory, in whatever order of channels. Views of (rows of a group,
        # groups x channels) would have to be copied both ways: 2.8 times a ResNet-50's step.
        parts = input.split([rows * size for size in sizes])
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in parts])


def convert_ghost_batchnorm(module: nn.Module, groups: ClipGroups) -> None:
    """Let all BatchNorm layers of a module take their statistics by groups when they train.

    In place: layers stay the very objects, with their parameters, buffers, activations and names.

    Args:
        module: The layers' owner.
        groups: What they will look at in every forward pass in training mode.
    """
    kinds: dict[type[_BatchNorm], type[_BatchNorm]] = {}
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            ghost: Any = layer
            ghost.__class__ = kinds.setdefault(type(layer), _ghost_of(type(layer)))
            ghost.groups = groups


def _ghost_of(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """The same class of layer by groups: torch's for 1 to 3 dimensions, or timm's own ones."""
    return type(f"Ghost{kind.__name__}", (GhostBatchNorm, kind), {})
