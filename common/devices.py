"""Where networks run, and in which arithmetic where their outputs are to be reproduced."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

from reskd.common.errors import DataError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        DataError: If the device is unknown to torch or not present.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DataError(
            f"--device {name!r} is no device of torch; try auto, cpu or cuda:0."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; "
            "use a lower number or --device cpu."
        )
    return device


@contextmanager
def plain_float32() -> Iterator[None]:
    """float32 means float32: CUDA would round convolutions to TF32, or pick them by timing.

    cuDNN stays on, unless it was off before. That has to be said: flags that are not named take the
    defaults of torch's function, and its default for cuDNN is off.
    """
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield
