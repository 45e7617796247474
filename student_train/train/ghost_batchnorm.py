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
    pieces: tuple[tuple[int, ...], ...] = ()
    """Groups of the pieces that are computed one after the other (pieces.py); none: all at once."""


class GhostBatchNorm(_BatchNorm):
    """What a BatchNorm layer becomes in training; everything else stays what its own class says.

    Rows of its input are those of the clips, one clip after the other: frames, for layers of 2D
    networks. Running statistics take the groups in order, as if each were a batch of its own.
    """

    groups: ClipGroups
    plain: bool
    """Whether it does nothing beside: timm's own layers have activations."""

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
        if torch.compiler.is_compiling() and self._may_be_one_kernel(input):
            return self._at_once(input, len(sizes))
        # Slices lie together in memory, in whatever order of channels. Views of (rows of a group,
        # groups x channels) would have to be copied both ways: 2.8 times a ResNet-50's step.
        parts = input.split([rows * size for size in sizes])
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in parts])

    def _may_be_one_kernel(self, input: Tensor) -> bool:
        """Whether groups are alike, and nothing but the usual is to be done with them."""
        return (
            self.plain
            and self.affine
            and self.track_running_stats
            and self.momentum is not None
            and len(set(self.groups.sizes)) == 1
            and input.numel() > len(self.groups.sizes) * self.num_features
        )

    def _at_once(self, input: Tensor, count: int) -> Tensor:
        """The same in the terms of which a compiler makes few kernels, not one for every group.

        Without a compiler it would be many passes over memory.
        """
        x_GNC = input.to(torch.promote_types(input.dtype, torch.float32)).unflatten(0, (count, -1))
        places = [1, *range(3, x_GNC.ndim)]
        var_GC, mean_GC = torch.var_mean(x_GNC, dim=places, correction=0)
        self._take_in(mean_GC, var_GC, values=x_GNC.numel() // mean_GC.numel())
        scale_GC = self.weight * torch.rsqrt(var_GC + self.eps)
        shift_GC = self.bias - mean_GC * scale_GC
        shape = (count, 1, self.num_features, *[1] * (x_GNC.ndim - 3))
        normed: Tensor = x_GNC * scale_GC.reshape(shape) + shift_GC.reshape(shape)
        return normed.flatten(0, 1).to(input.dtype)

    @torch.no_grad()
    def _take_in(self, mean_GC: Tensor, var_GC: Tensor, *, values: int) -> None:
        """Move the running statistics by every group's in turn."""
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        for mean_C, var_C in zip(mean_GC, var_GC, strict=True):
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * (values / (values - 1)), self.momentum)
        self.num_batches_tracked.add_(len(mean_GC))


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
            ghost.groups, ghost.plain = groups, type(layer).forward is _BatchNorm.forward
            ghost.__class__ = kinds.setdefault(type(layer), _ghost_of(type(layer)))


def _ghost_of(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """The same class of layer by groups: torch's for 1 to 3 dimensions, or timm's own ones."""
    return type(f"Ghost{kind.__name__}", (GhostBatchNorm, kind), {})
