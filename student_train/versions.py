"""Which programs computed something: versions of Python, the system and packages."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGES: Final = ("reskd", "torch", "torchvision", "timm", "numpy", "av", "decord", "zarr")


def installed_versions() -> dict[str, str]:
    """Versions by name, `python` and `system` first."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # decord has no wheels for some machines
            found[package] = "not installed"
    return found
