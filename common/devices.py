"""Where networks run, and in which arithmetic where their outputs are to be reproduced."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch.backends import cudnn

from reskd.common.errors import DataError

_SUMS_IN_HALF: Final = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)


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


def widest_float(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64, of which Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def seed_device(device: torch.device, seed: int) -> None:
    """`torch.manual_seed` for one device and the CPU: seeding all there may be is slow."""
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def repeatable_arithmetic(*, tf32: bool = False) -> Iterator[None]:
    """Everything torch may round as it likes on CUDA is said, and is afterwards as it was before.

    Kernels are deterministic and not chosen by timing them, and products of half numbers are summed
    in float32. cuDNN stays on, unless it was off before. That has to be said: flags that are not
    named take the defaults of torch's function, and its default for cuDNN is off.

    Args:
        tf32: Let convolutions and matrix products round float32 numbers to TF32, 10 bits of
            mantissa, before they multiply them; without it float32 means float32.
    """
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision()
    sums = {name: getattr(matmul, name) for name in _SUMS_IN_HALF}
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    for name in sums:
        setattr(matmul, name, False)
    try:
        with cudnn.flags(
            enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=tf32
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
        for name, allowed in sums.items():
            setattr(matmul, name, allowed)
