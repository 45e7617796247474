"""The zarr.json files: what makes a cache readable by anyone with zarr-python alone."""

import tempfile
from pathlib import Path

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from reskd.common.distill.arrays import ArraySpec
from reskd.teacher_cache.format.layout import Layout
from reskd.teacher_cache.format.manifest import Manifest
from reskd.teacher_cache.format.shard import ZSTD_LEVEL, Codec


def zarr_files(manifest: Manifest) -> dict[str, bytes]:
    """Every zarr.json of a cache by its path inside it; equal manifests give equal bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        group = zarr.create_group(LocalStore(scratch), zarr_format=3)
        for array in manifest.stored_arrays:
            _create_array(group, array, manifest.layout, manifest.codec_of(array))
        paths = sorted(Path(scratch).rglob("zarr.json"))
        return {path.relative_to(scratch).as_posix(): path.read_bytes() for path in paths}


def _create_array(group: zarr.Group, array: ArraySpec, layout: Layout, codec: Codec) -> None:
    compression = [ZstdCodec(level=ZSTD_LEVEL)] if codec == "zstd" else []
    group.create_array(
        array.name,
        shape=(layout.num_views, layout.extent, *array.row_shape),
        dtype=array.dtype,
        chunks=(1, 1, *array.row_shape),
        shards=(layout.block_views, layout.unit_videos, *array.row_shape),
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[*compression, Crc32cCodec()],
        fill_value=0,
        attributes=dict(sorted(array.attributes.items())),  # as cache.json gives them back
        dimension_names=["view", "video", *(f"axis{i}" for i in range(len(array.row_shape)))],
    )
