"""Codec zstd: fewer bytes, the same rows."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numcodecs.zstd import Zstd

from reskd.common.distill.arrays import ArraySpec
from reskd.common.errors import CacheError
from reskd.teacher_cache.format.commits import StoredObject, read_commit, write_commit
from reskd.teacher_cache.format.layout import CRC_BYTES, object_key
from reskd.teacher_cache.format.shard import CompressedShardBuffer, crc32c
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.handling import tree_of
from tests.teacher_cache.synthetic import ARRAYS, FAILED_VIDEO, LAYOUT, make_cache, rows_of
from tests.tiny_experiment import TinyCache, make_tiny_cache

FEATURES = ARRAYS[1]
READABLE = [video for video in range(LAYOUT.num_videos) if video != FAILED_VIDEO]
ROWS = [(view, video) for video in reversed(READABLE) for view in range(LAYOUT.num_views)]


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.name)
def test_array_read_both_ways_is_what_was_written(
    tmp_path: Path, array: ArraySpec, codec: str
) -> None:
    make_cache(tmp_path / "cache", codec=codec)  # type: ignore[arg-type]
    views, videos = (list(numbers) for numbers in zip(*ROWS, strict=True))
    for direct in (True, False):
        reader = CacheReader(tmp_path / "cache", direct=direct)
        out = reader.gather(array.name, views, videos, reader.empty(array.name, len(ROWS)))
        np.testing.assert_array_equal(out, rows_of(array)[views, videos])
        with pytest.raises(CacheError, match="video 6 was never written"):
            reader.gather(array.name, [0], [FAILED_VIDEO], reader.empty(array.name, 1))


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("damage", ["row", "cut", "gone"])
def test_damage_read_through_zarr_names_cache_array_unit_view_and_video(
    tmp_path: Path, damage: str, codec: str
) -> None:
    folder = tmp_path / "cache"
    make_cache(folder, codec=codec)  # type: ignore[arg-type]
    path = folder / object_key(ARRAYS[1], 0, 0)
    data = bytearray(path.read_bytes())
    if damage == "row":
        data[3] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    reader = CacheReader(folder, direct=False)
    with pytest.raises(CacheError) as caught:
        reader.gather("features", [0], [0], reader.empty("features", 1))
    for part in (str(folder), "array features", "unit 0", "view 0", "video 0"):
        assert part in str(caught.value)
    paths = {finding.path for finding in verify_cache(folder, "bytes").findings}
    assert object_key(ARRAYS[1], 0, 0) in paths


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "of-before"])
@pytest.mark.parametrize("size", [FEATURES.row_bytes - 1, FEATURES.row_bytes + 1, 1 << 22])
def test_compressed_row_of_another_size_is_refused_before_it_is_unpacked(
    tmp_path: Path, size: int, bound: bool
) -> None:
    manifest = make_cache(tmp_path / "cache", codec="zstd", row_checksums=bound)
    buffer = CompressedShardBuffer(FEATURES, LAYOUT, block=0, unit=0)
    for video in LAYOUT.videos_of(0):
        buffer.put(video, rows_of(FEATURES)[:, video])
    packed = Zstd(level=1).encode(bytes(size))
    buffer._rows[0, 0] = packed + crc32c(packed).to_bytes(CRC_BYTES, "little")
    data, key = b"".join(map(bytes, buffer.pieces())), object_key(FEATURES, 0, 0)
    (tmp_path / "cache" / key).write_bytes(data)
    commit = read_commit(tmp_path / "cache", 1, 0)
    assert commit is not None
    stored = StoredObject(bytes=len(data), sha256=sha256(data).hexdigest())
    write_commit(tmp_path / "cache", replace(commit, objects={**commit.objects, key: stored}))
    reader = CacheReader(tmp_path / "cache")
    with pytest.raises(CacheError, match=f"is of {size} bytes instead of {FEATURES.row_bytes}"):
        reader.gather("features", [0], [0], reader.empty("features", 1))
    problems = [finding.problem for finding in verify_cache(tmp_path / "cache", "bytes").findings]
    assert problems == [f"is of {size} bytes instead of {FEATURES.row_bytes}"]
    assert manifest.codec == "zstd"


def test_compressed_cache_of_a_teacher_is_smaller_and_says_the_same(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    text = tiny_cache.experiment.read_text()
    tiny_cache.experiment.write_text(text + "targets: {codec: zstd}\n")
    cold = make_tiny_cache(tiny_cache.experiment, tmp_path / "cold").cache
    assert verify_cache(cold, "bytes").findings == ()
    sizes = [sum(map(len, tree_of(folder).values())) for folder in (cold, tiny_cache.cache)]
    assert sizes[0] < sizes[1]
    readers = [CacheReader(folder) for folder in (cold, tiny_cache.cache)]
    assert readers[0].manifest.codec == "zstd"
    for array in readers[0].manifest.arrays:
        one, two = (
            reader.gather(array.name, [2, 0], [1, 3], reader.empty(array.name, 2))
            for reader in readers
        )
        np.testing.assert_array_equal(one, two)
