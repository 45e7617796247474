"""Shard objects are what Zarr's own codec reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from reskd.common.distill.arrays import ArraySpec
from reskd.teacher_cache.format.layout import Layout, object_key
from reskd.teacher_cache.format.shard import ShardBuffer, parse_index
from tests.teacher_cache.synthetic import ARRAYS, LAYOUT, make_cache, rows_of


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.name)
def test_every_array_read_by_zarr_alone_equals_what_was_written(
    tmp_path: Path, array: ArraySpec
) -> None:
    make_cache(tmp_path / "cache")
    opened = zarr.open_group(tmp_path / "cache", mode="r")[array.name]
    assert isinstance(opened, zarr.Array)
    assert opened.shape == (LAYOUT.num_views, LAYOUT.num_videos, *array.row_shape)
    np.testing.assert_array_equal(np.asarray(opened[:]), rows_of(array))


def test_array_metadata_promises_checksums_on_rows_and_index(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    metadata = json.loads((tmp_path / "cache" / "features" / "zarr.json").read_text())
    sharding = metadata["codecs"][0]["configuration"]
    assert [codec["name"] for codec in sharding["codecs"]] == ["bytes", "crc32c"]
    assert [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
    assert sharding["chunk_shape"] == [1, 1, 2, 3, 2, 2]
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [3, 4, 2, 3, 2, 2]


def test_zarr_refuses_a_flipped_bit_in_a_row(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    path = tmp_path / "cache" / object_key(ARRAYS[0], 0, 0)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    opened = zarr.open_group(tmp_path / "cache", mode="r")["logits"]
    assert isinstance(opened, zarr.Array)
    with pytest.raises(ValueError, match="checksum"):
        opened[0, 0]


def test_buffer_with_a_missing_video_is_never_written() -> None:
    buffer = ShardBuffer(ARRAYS[0], LAYOUT, block=0, unit=0)
    buffer.put(0, rows_of(ARRAYS[0])[:, 0])
    with pytest.raises(AssertionError, match="rows of a unit are missing"):
        buffer.pieces()


def test_parse_index_of_damaged_bytes_says_what_is_wrong() -> None:
    layout = Layout(num_views=1, block_views=1, num_videos=2, unit_videos=2)
    buffer = ShardBuffer(ARRAYS[0], layout, block=0, unit=0)
    for place in range(2):
        buffer.put(place, np.zeros((1, 5), np.float16))
    raw = b"".join(bytes(piece) for piece in buffer.pieces())[-layout.index_bytes() :]
    assert parse_index(raw, layout)[0, 1].tolist() == [14, 14]
    with pytest.raises(ValueError, match="checksum of its index"):
        parse_index(b"\x01" + raw[1:], layout)
    with pytest.raises(ValueError, match=r"has 3 bytes instead of 36"):
        parse_index(raw[:3], layout)
