"""What tests do with caches: compare every file, damage one, put all back, extend."""

from pathlib import Path
from typing import Any

import torch

from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.fill.extend import extend_cache
from reskd.teacher_cache.fill.job import RunOptions
from tests.tiny_experiment import TinyCache

OPTIONS = RunOptions(max_bad=0.0, threads=1, device=torch.device("cpu"), force=False)


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file of a cache by its path inside it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def put_back(folder: Path, tree: dict[str, bytes]) -> None:
    """Make a folder hold these files again, and no others."""
    for path in list(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in tree:
            path.unlink()
    for name, content in tree.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def flip_a_bit(path: Path) -> None:
    """In the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def extend(
    cache: TinyCache,
    *,
    views: int | None = None,
    targets: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run `extend_cache` with the cache's own experiment."""
    experiment = load_experiment(str(cache.experiment), overrides)
    return extend_cache(experiment, cache.cache, views=views, targets=targets, options=OPTIONS)
