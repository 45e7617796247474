"""Versions, and whether those fit that must."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from reskd.common.doctor.symptom import Symptom

PACKAGES = ("torch", "torchvision", "timm", "numpy", "zarr", "h5py", "torchmetrics")


def packages() -> Iterator[Symptom]:
    """Python and what the work needs."""
    yield Symptom("python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            yield Symptom(name, version(name))
        except PackageNotFoundError:
            yield Symptom(name, "missing", f"pip install {name}")
    yield _pairing()


def _pairing() -> Symptom:
    """Whether torchvision was built for this torch: its compiled operators are tried."""
    name = "torch and torchvision"
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, OSError) as error:
        return Symptom(
            name,
            f"do not fit each other: {str(error).splitlines()[0]}",
            "install both from one place, in one command: pip install --upgrade torch torchvision",
        )
    return Symptom(name, "fit each other")
