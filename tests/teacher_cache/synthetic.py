"""A cache with made-up rows: the store alone, without videos or networks."""

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import numpy as np
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.common.video.views import FAILED, OK
from reskd.teacher_cache.fill.writer import (
    UnitBuffers,
    create_cache,
    write_metadata,
    write_unit,
)
from reskd.teacher_cache.format.layout import Layout
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.format.row_checksums import TABLE
from reskd.teacher_cache.format.shard import Codec

ARRAYS = (
    ArraySpec(name="logits", row_shape=(5,), dtype="float16"),
    ArraySpec(name="features", row_shape=(2, 3, 2, 2), dtype="float16"),
    ArraySpec(name="feature_residual", row_shape=(), dtype="float32"),
    ArraySpec(name="frames", row_shape=(2, 3, 4, 4), dtype="uint8"),
    ArraySpec(name="views", row_shape=(10,), dtype="int32"),
    ArraySpec(name="logit_map_ids", row_shape=(2, 2, 2, 3), dtype="uint16"),
    ArraySpec(name="steps", row_shape=(2, 3, 2, 2), dtype="int8"),
)
LAYOUT = Layout(num_views=3, block_views=3, num_videos=11, unit_videos=4)
IDENTITY = {"teacher": {"weights_sha256": "0" * 64, "mode": "eval"}, "preprocessing": 1}
FAILED_VIDEO = 6


def rows_of(array: ArraySpec) -> NDArray[np.generic]:
    """The whole content of an array, (V, N, *row_shape)."""
    rng = np.random.default_rng(len(array.name))
    shape = (LAYOUT.num_views, LAYOUT.num_videos, *array.row_shape)
    rows: NDArray[np.generic] = rng.integers(0, 100, shape).astype(array.dtype)
    if array.name == "views":
        rows[..., -1] = OK
        rows[:, FAILED_VIDEO, -1] = FAILED
    else:
        rows[:, FAILED_VIDEO] = 0
    return rows


def make_cache(
    folder: Path,
    *,
    units: range | None = None,
    codec: Codec = "none",
    row_checksums: bool = True,
) -> Manifest:
    """Write a cache; its second unit holds one video that could not be read.

    Without row_checksums it is one of before there were such.
    """
    plan = TargetPlan(arrays=ARRAYS, teacher_grid=(4, 4), feature_grid=(2, 2), student_size=4)
    create_cache(folder, identity=IDENTITY, plan=plan, layout=LAYOUT, codec=codec)
    if not row_checksums:
        forget_row_checksums(folder)
    manifest = read_manifest(folder)
    for unit in units if units is not None else range(LAYOUT.num_units):
        write_synthetic_unit(folder, manifest, unit)
    return manifest


def forget_row_checksums(folder: Path) -> None:
    """Make an empty cache one of before its rows were bound to their places."""
    rmtree(folder / TABLE)
    write_metadata(folder, replace(read_manifest(folder), row_checksums=False))


def write_synthetic_unit(folder: Path, manifest: Manifest, unit: int) -> None:
    """Fill and commit one unit."""
    buffers = UnitBuffers(manifest, manifest.generations[0], unit)
    videos = LAYOUT.videos_of(unit)
    content = {array.name: rows_of(array) for array in ARRAYS}
    for place, video in enumerate(videos):
        buffers.put(place, {name: rows[:, video] for name, rows in content.items()})
    failed = {FAILED_VIDEO: "it is a text file"} if FAILED_VIDEO in videos else {}
    write_unit(folder, manifest, buffers, failed)
