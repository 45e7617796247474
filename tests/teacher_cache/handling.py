"""What tests do with caches: compare every file, damage one, put all back, extend, edit."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reskd.common.experiment.load import load_experiment
from reskd.common.storage.records import read_record, write_record
from reskd.teacher_cache.fill.extend import extend_cache
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.identity import Identity
from reskd.teacher_cache.format.manifest import read_manifest, write_manifest
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


def edit_identity(cache: Path, *keys: str, value: object) -> None:
    """Set one field of a cache's identity, and seal every record anew."""
    identity = deepcopy(read_manifest(cache).identity)
    node = identity
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    set_identity(cache, identity)


def set_identity(cache: Path, identity: Identity) -> None:
    """Replace a cache's identity, and seal every record anew."""
    manifest = replace(read_manifest(cache), identity=identity)
    write_manifest(cache, manifest)
    for record in (cache / "commits").iterdir():
        write_record(record, {**read_record(record), "fingerprint": manifest.fingerprint})
