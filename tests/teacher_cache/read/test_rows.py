"""Rows read in pieces and by several threads are the same rows, and refused for the same damage."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reskd.common.errors import CacheError
from reskd.teacher_cache.format.layout import CRC_BYTES, object_key
from reskd.teacher_cache.read import reader as reader_module
from reskd.teacher_cache.read import rows as rows_module
from reskd.teacher_cache.read.reader import CacheReader
from tests.teacher_cache.synthetic import ARRAYS, LAYOUT, make_cache, rows_of

FRAMES = ARRAYS[3]
"""Its rows have 96 bytes."""


@pytest.fixture(params=[1, 7, 32, 95, 96])
def _short_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "PIECE_BYTES", request.param)
    monkeypatch.setattr(reader_module, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(reader_module, "PARALLEL_ROW_BYTES", 0)


@pytest.mark.usefixtures("_short_pieces")
def test_gather_in_pieces_and_threads_equals_what_was_written(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    views, videos = np.arange(30) % LAYOUT.num_views, np.arange(30) % 6
    out = reader.gather("frames", views, videos, reader.empty("frames", 30))
    np.testing.assert_array_equal(out, rows_of(FRAMES)[views, videos])


@pytest.mark.usefixtures("_short_pieces")
@pytest.mark.parametrize(
    ("byte", "bound"),
    [
        *((byte, bound) for byte in (0, 50, FRAMES.row_bytes - 1) for bound in (True, False)),
        (FRAMES.row_bytes, False),  # the row's own checksum, which is not needed where it is bound
    ],
)
def test_gather_in_pieces_refuses_a_flipped_bit_in_any_of_them(
    tmp_path: Path, byte: int, bound: bool
) -> None:
    make_cache(tmp_path / "cache", row_checksums=bound)
    path = tmp_path / "cache" / object_key(FRAMES, 0, 0)
    data = bytearray(path.read_bytes())
    data[(FRAMES.row_bytes + CRC_BYTES) * 2 + byte] ^= 1  # view 0, video 2
    path.write_bytes(data)
    reader = CacheReader(tmp_path / "cache")
    with pytest.raises(CacheError, match="view 0, video 2 does not have the checksum"):
        reader.gather("frames", [0, 0, 0], [0, 1, 2], reader.empty("frames", 3))


SMALL_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from reskd.teacher_cache.read.reader import CacheReader

hard = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))
reader = CacheReader(Path(sys.argv[1]))
videos = [0, 5, 9] * 10
for name in ("frames", "features", "logits", "views", "steps"):
    reader.gather(name, [0] * 30, videos, reader.empty(name, 30))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize("hard", [16, 4096])
def test_reader_raises_the_soft_limit_of_open_files_and_lives_within_it(
    tmp_path: Path, hard: int
) -> None:
    make_cache(tmp_path / "cache")
    command = [sys.executable, "-c", SMALL_LIMIT, str(tmp_path / "cache"), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == hard


def test_closed_reader_has_no_file_open_and_reads_again_when_asked(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache")
    with CacheReader(tmp_path / "cache") as reader:
        first = reader.gather("frames", [0, 1], [0, 9], reader.empty("frames", 2))
        assert [path for path in open_files() if path.startswith(str(tmp_path))]
    assert not [path for path in open_files() if path.startswith(str(tmp_path))]
    again = reader.gather("frames", [0, 1], [0, 9], reader.empty("frames", 2))
    np.testing.assert_array_equal(again, first)
    del reader  # as one that is forgotten does
    assert not [path for path in open_files() if path.startswith(str(tmp_path))]


def open_files() -> list[str]:
    """Files of this process; Linux only."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("the open files of a process can be listed on Linux only")
    return [str(link.readlink()) for link in folder.iterdir() if link.is_symlink()]


def test_rows_that_are_expected_are_asked_for_in_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cache(tmp_path / "cache")
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        os,
        "posix_fadvise",
        lambda file, start, length, advice: asked.append((start, length)),
    )
    width, reader = FRAMES.row_bytes + CRC_BYTES, CacheReader(tmp_path / "cache")
    # Units of 4 videos, rows by view: video 2 and 3 of view 1, and all but one of the next unit.
    reader.expect(["frames"], 1, [3, 7, 2, 5, 4])
    runs = [(4 * width + 2 * width, 2 * width), (4 * width, 2 * width), (7 * width, width)]
    assert sorted(asked) == sorted(runs)
    reader.expect(["frames"], 1, [6, 99])  # a failed one, and none: told when they are read
    assert len(asked) == 3
    out = reader.gather("frames", [1, 1], [2, 7], reader.empty("frames", 2))
    np.testing.assert_array_equal(out, rows_of(FRAMES)[[1, 1], [2, 7]])


def test_compressed_rows_are_not_expected(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", codec="zstd")
    CacheReader(tmp_path / "cache").expect(["frames"], 0, [0, 1])
