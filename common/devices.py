"""Where networks run, and in which arithmetic where their outputs are to be reproduced."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch.backends import cudnn

from reskd.common.errors import DataError, StoppedShortError

_SUMS_IN_HALF: Final = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Returns:
        The device. A CUDA device has its number: some functions of torch refuse it without.

    Raises:
        DataError: If the device is unknown to torch or not present.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DataError(
            f"--device {name!r} is no device of torch; try auto, cpu or cuda:0."
        ) from error
    if device.type != "cuda":
        return device
    # Who has not begun with CUDA, and perhaps never does, has chosen none but the first.
    current = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    number = current if str(device) == "cuda" else device.index
    if number >= torch.cuda.device_count():
        raise DataError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; "
            "use a lower number or --device cpu."
        )
    return torch.device("cuda", number)


def memory_has_ended(error: RuntimeError) -> bool:
    """Whether a device has too little memory, in whatever words: libraries have their own."""
    words = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def device_has_failed(error: RuntimeError) -> bool:
    """Whether an error is a device's; only some have torch's type for it, not those of cuDNN."""
    ours = ("CUDA error", "CUDA driver error", "cuDNN error", "NCCL error")
    return isinstance(error, torch.AcceleratorError) or str(error).startswith(ours)


@contextmanager
def failures_told(device: torch.device, *, memory: str) -> Iterator[None]:
    """Let what fails of a device inside the block end the command with exit code 5.

    Args:
        device: For the message.
        memory: What to do where its memory ends.

    Raises:
        StoppedShortError: If its memory ends, or it fails.
    """
    try:
        yield
    except RuntimeError as error:
        line = (str(error).splitlines() or [""])[0]
        if memory_has_ended(error):
            raise StoppedShortError(f"The memory of {device} has ended: {line} {memory}") from error
        if device_has_failed(error):
            raise StoppedShortError(
                f"{device} failed: {line}. What was finished is kept; when it works again, the "
                "same command goes on."
            ) from error
        raise


def choose_devices(names: str) -> tuple[torch.device, ...]:
    """Devices of several workers: `cuda:0,cuda:1`; `cuda` is every one; `cpu:2` the CPU, twice.

    Raises:
        DataError: If one is unknown to torch, not present, or named twice.
    """
    devices: list[torch.device] = []
    for name in names.split(","):
        kind, _, number = name.strip().partition(":")
        if kind == "cpu":
            if not (number or "1").isdecimal() or int(number or 1) < 1:
                raise DataError(f"--devices {name!r}: cpu:2 is two workers on the CPU.")
            devices += [torch.device("cpu")] * int(number or 1)
        elif name.strip() == "cuda":
            found = max(1, torch.cuda.device_count())  # where there is none, that is said
            devices += [choose_device(f"cuda:{index}") for index in range(found)]
        else:
            devices.append(choose_device(name.strip()))
    others = [device for device in devices if device.type != "cpu"]
    if len(set(others)) < len(others):
        raise DataError(f"--devices {names!r} names a device twice; one worker keeps it busy.")
    return tuple(devices)


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
