"""A cache that no teacher has made: rows of noise cost a reader what true ones do."""

from pathlib import Path
from typing import Final

import numpy as np

from reskd.common.dataset.index import read_index
from reskd.common.distill.arrays import ArraySpec, Row
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import read_checkpoint_info
from reskd.common.rng import keyed_generator
from reskd.teacher_cache.fill.opening import new_cache
from reskd.teacher_cache.fill.writer import UnitBuffers, write_unit
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.format.plan import plan_cache

DIFFERENT_VIDEOS: Final = 8
"""Videos that noise is drawn for; the others have the rows of one of these."""
MEMORY_BYTES: Final = 1_000_000_000


def write_noise_cache(experiment: Experiment, folder: Path) -> None:
    """Write the cache of an experiment, whole, without a teacher's outputs.

    Args:
        experiment: Resolved experiment, whose index and teacher's checkpoint are there.
        folder: The cache; there must be nothing yet.
    """
    index = read_index(experiment.data.index)
    plan = plan_cache(experiment, index, memory_bytes=MEMORY_BYTES)
    new_cache(experiment, index, folder, plan, read_checkpoint_info(experiment.teacher.checkpoint))
    manifest = read_manifest(folder)
    generation = manifest.generations[0]
    videos = [
        {array.name: _noise(array, manifest.layout.num_views, seed) for array in manifest.arrays}
        for seed in range(DIFFERENT_VIDEOS)
    ]
    for unit in range(manifest.layout.num_units):
        buffers = UnitBuffers(manifest, generation, unit)
        for place in range(len(manifest.layout.videos_of(unit))):
            buffers.put(place, videos[place % DIFFERENT_VIDEOS])
        write_unit(folder, manifest, buffers, {})


def _noise(array: ArraySpec, views: int, seed: int) -> Row:
    """(views, *row_shape): small numbers, of which every loss is finite."""
    rng = keyed_generator("noise", array.name, seed)
    numbers = rng.integers(0, 100, (views, *array.row_shape), dtype=np.uint8)
    if array.name == "feature_scale":
        return np.full(numbers.shape, 0.01, array.dtype)
    if array.name == "frames":
        numbers = numbers * 2
    noise: Row = numbers.astype(array.dtype)
    return np.zeros_like(noise) if array.name == "views" else noise
