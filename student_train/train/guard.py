"""What keeps a step that went wrong away from the weights, without waiting for the device.

A device works behind the host, which may look at a number only by waiting for all that was asked
before. So the device itself decides whether the weights move, and the host learns of it later.
"""

from math import inf

import torch
from torch import Tensor

from reskd.common.devices import widest_float


class Guard:
    """Whether all has gone well so far: a flag on the device that stays down once it is.

    Args:
        device: Where the run computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.well = torch.ones((), dtype=torch.bool, device=device)
        """0-d bool."""

    def checked(self, loss: Tensor, ceiling: Tensor | float) -> Tensor:
        """A loss to go backward from: divided by 1, or by 0 once anything was wrong.

        The gradient is not finite then, so that every process that shares it leaves the step out.

        Args:
            loss: 0-d.
            ceiling: A loss must be below, and finite.
        """
        self.well &= loss.detach().abs() < ceiling
        return loss / self.well

    def leaves_out(self, norm: Tensor, scale: Tensor | None) -> Tensor:
        """Whether the weights must stay what they are: a 0-d float32, 1 for yes, else 0.

        Processes see by the gradient they share whether any had clips. With clips its norm is
        exactly 0 only where the loss has nothing left to teach.

        Args:
            norm: Of the whole gradient, 0-d; if it is not finite, something is wrong.
            scale: Of the loss in float16, 0-d: while above 1 a gradient may be too large for the
                type without harm, a smaller scale will be found. None: the loss is not scaled.
        """
        finite = norm < inf
        self.well &= finite if scale is None else finite | (scale > 1)
        return (~(self.well & finite & (norm > 0))).float()


class OnTheWay:
    """Numbers of a device on their way to the host.

    Args:
        numbers: 0-d tensors of one device, without what leads backward from them.
    """

    def __init__(self, *numbers: Tensor) -> None:
        device = numbers[0].device
        whole = torch.stack(numbers).to(widest_float(device))
        cuda = device.type == "cuda"
        self._arriving = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=cuda)
        self._arriving.copy_(whole, non_blocking=cuda)
        self._arrived: torch.cuda.Event | None = None
        if cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(device))

    def read(self) -> list[float]:
        """The numbers; waits for what the device was asked before them, for nothing after."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._arriving.numpy().tolist()
        return numbers
