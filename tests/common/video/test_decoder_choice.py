"""Who decodes first under `auto`: the faster one, where that changes no pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reskd.common.video import decord_library, video_file
from reskd.common.video.decoder_choice import is_dense
from reskd.common.video.facts import inspect
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.video_file import AutoReader, PyAVReader, open_video
from tests.video_files import Frames, shared_data, write_video

pytest.importorskip("decord")
N = 20


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who decodes, in order."""
    calls: list[str] = []
    decord, pyav = decord_library.decode_by_decord, PyAVReader._decode

    def by_decord(path: Path, positions: Sequence[int], num_frames: int) -> Frames:
        calls.append("decord")
        return decord(path, positions, num_frames)

    def by_pyav(self: PyAVReader, positions: Sequence[int]) -> Frames:
        calls.append("pyav")
        return pyav(self, positions)

    monkeypatch.setattr(video_file, "decode_by_decord", by_decord)
    monkeypatch.setattr(PyAVReader, "_decode", by_pyav)
    return calls


def noise(height: int = 98, width: int = 134) -> Frames:
    return np.random.default_rng(0).integers(0, 256, (N, height, width, 3), np.uint8)


def read(path: Path, num_wanted: int, indices: Sequence[int] = (19, 4, 11, 12, 0)) -> Frames:
    with open_video(path, "auto", num_wanted=num_wanted) as video:
        return video.frames(indices)


@pytest.mark.parametrize(
    ("num_wanted", "num_frames", "dense"),
    [(0, 1, False), (9, 100, False), (10, 100, True), (64, 250, True), (64, 3000, False)],
)
def test_density_counts_all_that_is_wanted_of_a_video(
    num_wanted: int, num_frames: int, dense: bool
) -> None:
    assert is_dense(num_wanted, num_frames) == dense


@pytest.mark.parametrize("indices", [[3], range(N)], ids=["one frame", "all frames"])
@pytest.mark.parametrize(("num_wanted", "first"), [(1, "decord"), (2, "pyav")])
def test_choice_is_that_of_the_experiment_however_few_frames_are_asked_for(
    tmp_path: Path, asked: list[str], num_wanted: int, first: str, indices: Sequence[int]
) -> None:
    path = write_video(tmp_path / "a.mp4", noise())
    read(path, num_wanted, indices)
    assert asked == [first]


@pytest.mark.parametrize("options", [{"g": "5"}, {"g": "250", "bf": "3"}], ids=["short", "long"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize(("height", "width"), [(98, 134), (240, 426), (360, 202), (256, 340)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_are_equal_whoever_decodes_first(
    tmp_path: Path,
    asked: list[str],
    name: str,
    height: int,
    width: int,
    pix_fmt: str,
    options: dict[str, Any],
) -> None:
    path = write_video(tmp_path / name, noise(height, width)[:6], pix_fmt=pix_fmt, **options)
    indices = [5, 0, 3]
    np.testing.assert_array_equal(read(path, N, indices), read(path, 0, indices))
    assert asked == ["pyav", "decord"]


@pytest.mark.parametrize(
    "colours",
    [
        "colormatrix=bt709:colorprim=bt709:transfer=bt709",
        "colormatrix=smpte170m:fullrange=on",
        "colormatrix=bt2020nc:colorprim=bt2020:transfer=smpte2084",
        "chromaloc=2",
    ],
)
def test_frames_of_any_colours_are_equal_whoever_decodes_first(
    tmp_path: Path, asked: list[str], colours: str
) -> None:
    options: dict[str, Any] = {"x264-params": colours}
    path = write_video(tmp_path / "a.mp4", noise(), **options)
    np.testing.assert_array_equal(read(path, N), read(path, 0))
    assert asked == ["pyav", "decord"]


@pytest.mark.parametrize(
    ("name", "height", "options"),
    [
        ("interlaced.mp4", 96, {"flags": "+ildct+ilme"}),
        ("odd.webm", 97, {"codec": "libvpx-vp9", "deadline": "realtime"}),
        ("ten_bits.mp4", 96, {"pix_fmt": "yuv420p10le"}),
        ("other.mkv", 96, {"codec": "ffv1", "pix_fmt": "yuv410p"}),
    ],
)
def test_frames_that_the_decoders_make_otherwise_are_decords_as_ever(
    tmp_path: Path, asked: list[str], name: str, height: int, options: dict[str, Any]
) -> None:
    path = write_video(tmp_path / name, noise(height, 130), **options)
    assert inspect(path, "auto").alike is None
    np.testing.assert_array_equal(read(path, N), read(path, 0))
    assert asked == ["decord", "decord"]
    with open_video(path, "pyav") as video:  # else there would be nothing to keep apart
        assert not np.array_equal(video.frames([19]), read(path, 0, [19]))


def test_picture_that_changes_in_size_is_left_to_decord(tmp_path: Path, asked: list[str]) -> None:
    path = tmp_path / "a.h264"
    parts = [write_video(tmp_path / f"{size}.h264", noise(size, 96)) for size in (80, 160)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    before = read(path, 0, [N - 1, N + 3])
    np.testing.assert_array_equal(read(path, 2 * N, [N - 1, N + 3]), before)
    half = len(asked) // 2
    assert asked == [*asked[:half], "pyav", *asked[:half]]


def test_frames_that_decord_conceals_are_left_to_it(tmp_path: Path, asked: list[str]) -> None:
    path = write_video(tmp_path / "a.mp4", noise(), g="250", bf="0")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path, N), read(path, 0))
    assert asked == ["pyav", "decord", "decord"]


def test_what_decord_misreads_is_pyavs_in_any_density(tmp_path: Path, asked: list[str]) -> None:
    path = write_video(tmp_path / "a.flv", noise(), g="9")
    np.testing.assert_array_equal(read(path, N), read(path, 0))
    assert asked == ["pyav", "pyav"]


def test_colours_that_no_converter_knows_are_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"x264-params": "colormatrix=YCgCo"}
    path = write_video(tmp_path / "a.mp4", noise(), **options)
    with pytest.raises(UnreadableVideoError, match="cannot be brought to RGB"):
        open_video(path)


@pytest.mark.parametrize("folder", ["gestures", "fight", "basketball", "tank"])
def test_frames_of_real_clips_are_equal_whoever_decodes_first(folder: str) -> None:
    clips = sorted((shared_data() / folder).rglob("*.mp4"))
    assert clips
    for path in clips[:: max(len(clips) // 5, 1)]:
        dense = AutoReader(path, num_wanted=10**6)
        assert dense.pyav_first == (dense.facts.alike is not None)
        indices = sorted({0, dense.num_frames // 2, dense.num_frames - 1})
        np.testing.assert_array_equal(dense.frames(indices), read(path, 0, indices))
