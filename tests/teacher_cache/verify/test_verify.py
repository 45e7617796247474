"""A clean cache has no findings; any damage has one that names it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reskd.common.errors import CacheError
from reskd.teacher_cache.format.layout import commit_key, object_key
from reskd.teacher_cache.format.manifest import MANIFEST_FILE
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.synthetic import ARRAYS, make_cache

NUM_RANDOM_FLIPS = 120


@pytest.mark.parametrize("level", ["structure", "bytes"])
def test_clean_cache_has_no_findings(tmp_path: Path, level: str) -> None:
    make_cache(tmp_path / "cache")
    report = verify_cache(tmp_path / "cache", level)  # type: ignore[arg-type]
    assert report.findings == ()
    assert report.failed_videos == 1
    assert report.units == 3


def test_flipped_bit_anywhere_is_found_at_level_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    make_cache(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    for _ in range(NUM_RANDOM_FLIPS):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        report = verify_cache(folder, "bytes")
        assert report.findings, path
        assert any(
            finding.path == path.relative_to(folder).as_posix() for finding in report.findings
        )
        path.write_bytes(whole)
    assert verify_cache(folder, "bytes").findings == ()


def test_flipped_bit_in_a_row_names_array_unit_view_and_video(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    make_cache(folder)
    path = folder / object_key(ARRAYS[0], 0, 1)
    data = bytearray(path.read_bytes())
    data[14 * 5] ^= 1  # rows of 10 + 4 bytes, view-major, 4 videos: row 5 is view 1, video 4 + 1
    path.write_bytes(data)
    rows = [f for f in verify_cache(folder, "bytes").findings if f.video is not None]
    assert [(f.array, f.unit, f.view, f.video) for f in rows] == [("logits", 1, 1, 5)]
    assert verify_cache(folder, "structure").findings == ()


def _swap_objects(folder: Path) -> None:
    one, two = (folder / object_key(ARRAYS[0], 0, unit) for unit in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _swap_commits(folder: Path) -> None:
    one, two = (folder / commit_key(1, unit) for unit in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _edit_commit(folder: Path) -> None:
    record = json.loads((folder / commit_key(1, 0)).read_text())
    record["failed"] = {"0": "made up"}
    (folder / commit_key(1, 0)).write_text(json.dumps(record))


def _foreign_commit(folder: Path) -> None:
    other = folder.with_name("other")
    make_cache(other, units=range(1))
    shutil.copy(other / commit_key(1, 0), folder / commit_key(1, 2))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / object_key(ARRAYS[1], 0, 2)).unlink(), "features/c/0/2"),
        (lambda folder: (folder / commit_key(1, 1)).unlink(), commit_key(1, 1)),
        (lambda folder: (folder / "features/zarr.json").unlink(), "features/zarr.json"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "notes.txt"),
        (lambda folder: (folder / "logits/c/0/1/0.77.partial").write_text("x"), "partial"),
        (lambda folder: (folder / "logits/c/0/9").mkdir(), None),
        (_swap_commits, commit_key(1, 0)),
        (_edit_commit, commit_key(1, 0)),
        (_foreign_commit, commit_key(1, 2)),
    ],
)
def test_damage_to_the_structure_is_found_without_reading_data(
    tmp_path: Path, damage: Callable[[Path], object], named: str | None
) -> None:
    folder = tmp_path / "cache"
    make_cache(folder)
    damage(folder)
    findings = verify_cache(folder, "structure").findings
    if named is None:  # an empty folder is nothing
        assert findings == ()
    else:
        assert any(named in finding.path for finding in findings)


def test_swapped_objects_are_found_at_level_bytes(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    _swap_objects(tmp_path / "cache")
    paths = {finding.path for finding in verify_cache(tmp_path / "cache", "bytes").findings}
    assert {object_key(ARRAYS[0], 0, 0), object_key(ARRAYS[0], 0, 1)} <= paths


def test_damaged_manifest_is_a_finding_and_no_cache_is_an_error(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    (tmp_path / "cache" / MANIFEST_FILE).write_text("{}")
    report = verify_cache(tmp_path / "cache", "structure")
    assert [finding.path for finding in report.findings] == [MANIFEST_FILE]
    with pytest.raises(CacheError, match="is not a teacher cache"):
        verify_cache(tmp_path, "structure")


def test_verifying_the_structure_imports_neither_torch_nor_zarr() -> None:
    code = (
        "import sys, reskd.teacher_cache.verify.verify\n"
        "print('torch' in sys.modules, 'zarr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
