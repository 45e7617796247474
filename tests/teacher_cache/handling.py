"""What tests do with caches: compare every file, damage one, put all back, extend, edit."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from reskd.common.experiment.load import load_experiment
from reskd.common.storage.records import read_record, write_record
from reskd.teacher_cache.fill.extend import extend_cache
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.fill.writer import UnitBuffers, write_unit
from reskd.teacher_cache.format.commits import read_commit
from reskd.teacher_cache.format.identity import Identity
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import read_manifest, write_manifest
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.verify import verify_cache
from tests.tiny_experiment import TinyCache

Rows = dict[str, NDArray[Any]]
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
    videos: bool = False,
    views: int | None = None,
    targets: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run `extend_cache` with the cache's own experiment."""
    experiment = load_experiment(str(cache.experiment), overrides)
    return extend_cache(
        experiment, cache.cache, videos=videos, views=views, targets=targets, options=OPTIONS
    )


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


def reseal(
    folder: Path, video: int, change: Callable[[Rows, CacheReader], None], *, run: int = 1
) -> None:
    """Write the unit of a video again with other rows of that video, every hash as it should be."""
    reader = CacheReader(folder)
    manifest, generation = reader.manifest, reader.manifest.generations[run - 1]
    unit, _ = manifest.layout.locate(video)
    commit = read_commit(folder, run, unit)
    assert commit is not None
    buffers = UnitBuffers(manifest, generation, unit)
    for place, number in enumerate(manifest.layout.videos_of(unit)):
        rows = {
            name: rows_of(reader, name, number)[slice(*generation.views)]
            for name in generation.arrays
        }
        if number == video:
            change(rows, reader)
        buffers.put(place, rows)
    (folder / commit_key(run, unit)).unlink()
    write_unit(folder, manifest, buffers, commit.failed, commit.groups)
    assert verify_cache(folder, "bytes").findings == ()


def rows_of(reader: CacheReader, name: str, video: int) -> NDArray[Any]:
    """All views of one video."""
    views = range(reader.manifest.layout.num_views)
    return reader.gather(name, views, [video] * len(views), reader.empty(name, len(views)))
