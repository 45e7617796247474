"""Where networks run."""

import torch

from common.errors import DataError


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
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"--device {name}: torch sees no CUDA device here; use --device cpu.")
    return device
