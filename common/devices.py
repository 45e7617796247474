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
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DataError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; "
            "use a lower number or --device cpu."
        )
    return device
