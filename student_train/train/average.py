"""A moving average of a network's weights that a flag on the device may hold back."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from reskd.common.models.recognizer import Recognizer


class WeightAverage(nn.Module):
    """The average of everything in a network's state: weights, and what BatchNorm has counted.

    Args:
        model: The network that is trained; its weights of now are the average to begin with.
        decay: Share of the average that every step keeps.
    """

    def __init__(self, model: Recognizer, *, decay: float) -> None:
        super().__init__()
        self.module: Recognizer = deepcopy(model).eval()
        self._decay = decay
        averaged, current = (each.state_dict(keep_vars=True) for each in (self.module, model))
        pairs = [(value, current[name]) for name, value in averaged.items()]
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, skip: Tensor) -> None:
        """Take the weights of now in.

        Args:
            skip: 0-d float32 on their device: 1 leaves the average what it is, to the bit.
        """
        averaged, current = _in_columns(self._floats)
        # One call for all tensors, which looks at the flag: a += (1 - decay) (w - a), written as
        # gradient descent with gradient -w and weight decay 1. A product with the flag would not
        # do: zero times what is not finite is not zero.
        sgd(
            averaged,
            current,
            [None] * len(averaged),
            lr=1 - self._decay,
            weight_decay=1.0,
            maximize=True,
            momentum=0.0,
            dampening=0.0,
            nesterov=False,
            fused=True,
            found_inf=skip,
        )
        counted, counts = _in_columns(self._counts)
        if counted:
            news = torch._foreach_sub(counts, counted)
            torch._foreach_mul_(news, 1 - skip.to(torch.int64))
            torch._foreach_add_(counted, news)


def _in_columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [averaged for averaged, _ in pairs], [current for _, current in pairs]
