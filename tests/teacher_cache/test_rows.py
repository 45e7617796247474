"""Rows read in pieces and by several threads are the same rows, and refused for the same damage."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import CacheError
from teacher_cache import reader as reader_module
from teacher_cache import rows as rows_module
from teacher_cache.layout import CRC_BYTES, object_key
from teacher_cache.reader import CacheReader
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
@pytest.mark.parametrize("byte", [0, 50, FRAMES.row_bytes - 1, FRAMES.row_bytes])
def test_gather_in_pieces_refuses_a_flipped_bit_in_any_of_them(tmp_path: Path, byte: int) -> None:
    make_cache(tmp_path / "cache")
    path = tmp_path / "cache" / object_key(FRAMES, 0, 0)
    data = bytearray(path.read_bytes())
    data[(FRAMES.row_bytes + CRC_BYTES) * 2 + byte] ^= 1  # view 0, video 2
    path.write_bytes(data)
    reader = CacheReader(tmp_path / "cache")
    with pytest.raises(CacheError, match="view 0, video 2 does not have the checksum"):
        reader.gather("frames", [0, 0, 0], [0, 1, 2], reader.empty("frames", 3))
