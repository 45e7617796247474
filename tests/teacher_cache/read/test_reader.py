"""Rows read back: all of them, in any process, and never a wrong one."""

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reskd.common.distill.arrays import ArraySpec
from reskd.common.errors import CacheError, StoppedShortError
from reskd.teacher_cache.format.layout import commit_key, object_key
from reskd.teacher_cache.format.manifest import MANIFEST_FILE
from reskd.teacher_cache.read.reader import CacheReader
from tests.teacher_cache.synthetic import ARRAYS, FAILED_VIDEO, LAYOUT, make_cache, rows_of

READABLE = [video for video in range(LAYOUT.num_videos) if video != FAILED_VIDEO]
LOGITS = ARRAYS[0]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.name)
def test_gather_of_every_row_equals_what_was_written(tmp_path: Path, array: ArraySpec) -> None:
    make_cache(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    rows = [(view, video) for video in reversed(READABLE) for view in range(LAYOUT.num_views)]
    views, videos = zip(*rows, strict=True)
    out = reader.gather(array.name, views, videos, reader.empty(array.name, len(rows)))
    np.testing.assert_array_equal(out, rows_of(array)[list(views), list(videos)])


def test_gather_into_a_buffer_of_another_shape_is_refused(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    with pytest.raises(ValueError, match="out must be contiguous, float16"):
        reader.gather("logits", [0], [0], np.empty((1, 4), np.float16))


def test_gather_of_a_failed_video_says_why_instead_of_zeros(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    assert reader.failed == {FAILED_VIDEO: "it is a text file"}
    assert reader.usable_videos == READABLE
    with pytest.raises(
        CacheError,
        match=r"video 6 was never written, its video could not be read: it is a text file",
    ):
        reader.gather("logits", [0], [FAILED_VIDEO], reader.empty("logits", 1))


def _flip_row(folder: Path) -> None:
    path = folder / object_key(LOGITS, 0, 0)
    data = bytearray(path.read_bytes())
    data[0] ^= 0x10
    path.write_bytes(data)


def _flip_index(folder: Path) -> None:
    path = folder / object_key(LOGITS, 0, 0)
    data = bytearray(path.read_bytes())
    data[-20] ^= 0x10
    path.write_bytes(data)


def _truncate(folder: Path) -> None:
    path = folder / object_key(LOGITS, 0, 0)
    path.write_bytes(path.read_bytes()[:-1])


def _remove_object(folder: Path) -> None:
    (folder / object_key(LOGITS, 0, 0)).unlink()


def _remove_commit(folder: Path) -> None:
    (folder / commit_key(1, 0)).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_row, "does not have the checksum"),
        (_flip_index, "checksum of its index"),
        (_truncate, "bytes long instead of"),
        (_remove_object, "cannot be read"),
        (_remove_commit, "never finished"),
    ],
)
def test_gather_from_a_damaged_unit_names_cache_array_unit_view_and_video(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "cache"
    make_cache(folder)
    damage(folder)
    reader = CacheReader(folder)
    with pytest.raises(CacheError, match=message) as caught:
        reader.gather("logits", [0], [0], reader.empty("logits", 1))
    for part in (str(folder), "array logits", "unit 0", "view 0", "video 0"):
        assert part in str(caught.value)


def test_unknown_array_names_those_that_are_there(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    with pytest.raises(CacheError, match="only logits, features"):
        CacheReader(tmp_path / "cache").empty("logit_map", 1)


def test_incomplete_cache_lists_its_missing_units(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", units=range(1, 2))
    reader = CacheReader(tmp_path / "cache")
    assert reader.usable_videos == [4, 5, 7]
    with pytest.raises(StoppedShortError, match=r"2 of 3 units are missing \(0, 2\)"):
        reader.require_complete()


def test_edited_manifest_is_refused(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    path = tmp_path / "cache" / MANIFEST_FILE
    path.write_text(path.read_text().replace('"eval"', '"batch"'))
    with pytest.raises(CacheError, match="was changed after it was written"):
        CacheReader(tmp_path / "cache")


def _gather_in_child(reader: CacheReader) -> list[float]:
    out = reader.gather("logits", [1, 2, 0, 1, 1], READABLE[:5], reader.empty("logits", 5))
    return [float(value) for value in out.sum(axis=1)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # threads + fork is the point
def test_reader_that_was_used_works_in_a_child_process(tmp_path: Path, method: str) -> None:
    make_cache(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    here = _gather_in_child(reader)  # opens files and starts threads before the child exists
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        assert pool.apply(_gather_in_child, (reader,)) == here


def test_pickled_reader_carries_no_open_files(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    here = _gather_in_child(reader)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy._rows == {}
    assert _gather_in_child(copy) == here
