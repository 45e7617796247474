"""What keeps a step that went wrong away from the weights, without waiting for the device.

A device works behind the host, which may look at a number only by waiting for all that was asked
before. So the device itself decides whether the weights move, and the host learns of it later.
"""

from math import nan

import torch
from torch import Tensor

from reskd.common.devices import widest_float


class Guard:
    """Whether the run has gone wrong: a flag on the device that stays set once it is.

    Args:
        device: Where the run computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.failed = torch.zeros((), dtype=torch.bool, device=device)
        """0-d bool."""

    def checked(self, loss: Tensor, ceiling: Tensor | float) -> Tensor:
        """A loss to go backward from, its value times 1, or NaN once anything was wrong.

        The gradient of NaN is NaN, so that every process that shares it leaves the step out.

        Args:
            loss: 0-d.
            ceiling: Above it a loss is wrong; one that is not finite always is.
        """
        value = loss.detach()
        self.failed |= ~value.isfinite() | (value > ceiling)
        # Not `where` with numbers: on a GPU they would be copied there, and waited for.
        return loss * torch.ones_like(value).masked_fill(self.failed, nan)

    def leaves_out(self, norm: Tensor, scale: Tensor | None) -> Tensor:
        """Whether the weights must stay what they are: a 0-d float32, 1 for yes, else 0.

        Processes see by the gradient they share whether any had clips. With clips its norm is
        exactly 0 only where the loss has nothing left to teach.

        Args:
            norm: Of the whole gradient, 0-d; if it is not finite, something is wrong.
            scale: Of the loss in float16, 0-d: while above 1 a gradient may be too large for the
                type without harm, a smaller scale will be found. None: the loss is not scaled.
        """
        strange = ~norm.isfinite()
        self.failed |= strange if scale is None else strange & (scale <= 1)
        return (self.failed | strange | (norm == 0)).float()


class OnTheWay:
    """Numbers of a device on their way to the host.

    Args:
        numbers: 0-d tensors of one device.
    """

    def __init__(self, *numbers: Tensor) -> None:
        device = numbers[0].device
        whole = torch.stack([number.detach().to(widest_float(device)) for number in numbers])
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
