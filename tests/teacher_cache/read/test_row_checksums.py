"""A row is read where it belongs or not at all: swaps of whole things, and caches of before."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from reskd.common.errors import CacheError
from reskd.common.storage.records import read_record, write_record
from reskd.teacher_cache.format.layout import CRC_BYTES, commit_key, object_key
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.format.row_checksums import TABLE
from reskd.teacher_cache.format.shard import crc32c
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.report import report_text
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.handling import tree_of
from tests.teacher_cache.synthetic import ARRAYS, FAILED_VIDEO, LAYOUT, make_cache, rows_of

FEATURES = ARRAYS[1]


def swap_files(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def swap_objects(cache: Path) -> None:
    """Of one array: equal in size and in index, and every row whole."""
    swap_files(cache / object_key(FEATURES, 0, 0), cache / object_key(FEATURES, 0, 1))


def swap_rows(cache: Path) -> None:
    """Two rows of one object, each with its own checksum."""
    path, width = cache / object_key(FEATURES, 0, 0), FEATURES.row_bytes + CRC_BYTES
    data = path.read_bytes()
    path.write_bytes(data[width : 2 * width] + data[:width] + data[2 * width :])


def swap_objects_and_tables(cache: Path) -> None:
    swap_objects(cache)
    swap_tables(cache)


def swap_tables(cache: Path) -> None:
    table = read_manifest(cache).tables[0]
    swap_files(cache / object_key(table, 0, 0), cache / object_key(table, 0, 1))


def swap_units(cache: Path) -> None:
    """Everything of two units, records included."""
    for array in read_manifest(cache).stored_arrays:
        swap_files(cache / object_key(array, 0, 0), cache / object_key(array, 0, 1))
    swap_files(cache / commit_key(1, 0), cache / commit_key(1, 1))


SWAPS = [
    pytest.param(swap_objects, "is whole and does not belong there", id="objects"),
    pytest.param(swap_rows, "is whole and does not belong there", id="rows"),
    pytest.param(swap_tables, "does not have the committed sha256", id="tables"),
    pytest.param(swap_objects_and_tables, "does not have the committed sha256", id="both"),
    pytest.param(swap_units, "under the name of unit 0 of run 1", id="units-with-records"),
]


def gather(folder: Path, *, direct: bool = True) -> None:
    with CacheReader(folder, direct=direct) as reader:
        reader.gather("features", [0], [0], reader.empty("features", 1))


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "zarr"])
@pytest.mark.parametrize(("swap", "message"), SWAPS)
def test_swap_is_refused_when_read_and_found_by_verify(
    tmp_path: Path, swap: Callable[[Path], None], message: str, direct: bool
) -> None:
    make_cache(tmp_path / "cache")
    gather(tmp_path / "cache", direct=direct)
    swap(tmp_path / "cache")
    with pytest.raises(CacheError, match=message):
        gather(tmp_path / "cache", direct=direct)
    assert verify_cache(tmp_path / "cache", "bytes").findings


def test_rows_swapped_in_a_compressed_cache_are_refused(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", codec="zstd")
    rows = zarr.open_group(tmp_path / "cache", mode="r+")["features"]
    assert isinstance(rows, zarr.Array)
    whole = np.asarray(rows[:, 0:4])
    rows[:, 0:4] = whole[:, [1, 0, 2, 3]]  # whole rows, with checksums and an index that fit
    record = tmp_path / "cache" / commit_key(1, 0)
    body = read_record(record)
    key = object_key(FEATURES, 0, 0)
    body["objects"][key]["bytes"] = (tmp_path / "cache" / key).stat().st_size
    write_record(record, body)
    with pytest.raises(CacheError, match="is whole and does not belong there"):
        gather(tmp_path / "cache")
    problems = [finding.problem for finding in verify_cache(tmp_path / "cache", "bytes").findings]
    assert sum("does not belong here" in problem for problem in problems) == 2 * LAYOUT.num_views


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_table_read_by_zarr_alone_has_the_checksum_of_every_row(tmp_path: Path, codec: str) -> None:
    make_cache(tmp_path / "cache", codec=codec)  # type: ignore[arg-type]
    table = zarr.open_group(tmp_path / "cache", mode="r")[TABLE]
    assert isinstance(table, zarr.Array)
    assert table.shape == (LAYOUT.num_views, LAYOUT.num_videos, len(ARRAYS))
    assert table.attrs["arrays"] == [array.name for array in ARRAYS]
    sums = np.asarray(table[:])
    for column, array in enumerate(ARRAYS):
        rows = rows_of(array)
        for view in range(LAYOUT.num_views):
            for video in range(LAYOUT.num_videos):
                assert sums[view, video, column] == crc32c(rows[view, video].tobytes())


def test_cache_of_before_is_read_and_verify_says_what_finds_its_swaps(tmp_path: Path) -> None:
    make_cache(tmp_path / "old", row_checksums=False)
    make_cache(tmp_path / "new")
    old, new = tree_of(tmp_path / "old"), tree_of(tmp_path / "new")
    objects = {name for name in old if "/c/" in name}
    assert objects == {name for name in new if "/c/" in name and not name.startswith(TABLE)}
    assert all(old[name] == new[name] for name in objects)
    assert "row_checksums" not in json.loads(old["cache.json"])["contents"]
    report = verify_cache(tmp_path / "old", "structure")
    assert report.findings == ()
    assert "verify --level bytes` alone" in report_text(report)
    assert "verify --level bytes` alone" not in report_text(
        verify_cache(tmp_path / "new", "structure")
    )
    swap_objects(tmp_path / "old")
    gather(tmp_path / "old")  # nothing tells
    assert {finding.path for finding in verify_cache(tmp_path / "old", "bytes").findings} == {
        object_key(FEATURES, 0, unit) for unit in (0, 1)
    }


def test_tables_are_read_as_they_are_touched(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    videos = [video for video in range(LAYOUT.num_videos) if video != FAILED_VIDEO]
    for video in reversed(videos):
        for name in ("steps", "features"):
            reader.gather(name, [2], [video], reader.empty(name, 1))
    table = reader._tables[TABLE]
    assert table._used == LAYOUT.num_views * LAYOUT.num_videos * len(ARRAYS)
    one = CacheReader(tmp_path / "cache")
    one.gather("steps", [1], [9], one.empty("steps", 1))
    assert one._tables[TABLE]._used == LAYOUT.num_views * 3 * len(ARRAYS)
