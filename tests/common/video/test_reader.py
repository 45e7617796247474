"""Readers: the right frames from both decoders, and no frame where there is none."""

import csv
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from reskd.common.errors import DataError
from reskd.common.video import decord_library, video_file
from reskd.common.video.facts import CutOffVideoError, inspect
from reskd.common.video.reader import Decoder, UnreadableVideoError
from reskd.common.video.video_file import decoder_identity, open_video
from tests.video_files import (
    Frames,
    frame_numbers,
    numbered_frames,
    shared_data,
    write_sound,
    write_video,
)

pytest.importorskip("decord")
BOTH: list[Decoder] = ["decord", "pyav"]
ALL: list[Decoder] = ["auto", "decord", "pyav"]
N = 36
OPEN_GROUPS = "open-gop=1:keyint=9:min-keyint=2:bframes=3:b-adapt=0"
SHORT_GROUPS: dict[str, Any] = {"g": "9", "bf": "2"}


def read(path: Path, decoder: Decoder, indices: Sequence[int]) -> Frames:
    with open_video(path, decoder) as video:
        return video.frames(indices)


class Coded(NamedTuple):
    """Where a packet lies in its file, [start, end), and when it is shown."""

    start: int
    end: int
    time: int | None


def coded(path: Path) -> list[Coded]:
    """The packets of a video, in the order of the file."""
    with av.open(str(path)) as container:
        return [
            Coded(packet.pos or 0, (packet.pos or 0) + packet.size, packet.pts)
            for packet in container.demux(video=0)
        ]


def cut_after(source: Path, num_packets: int, target: Path) -> Path:
    """A copy that ends after so many packets."""
    target.write_bytes(source.read_bytes()[: coded(source)[num_packets - 1].end])
    return target


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "a b é.mp4"
    return write_video(path, numbered_frames(N), **SHORT_GROUPS)


@pytest.mark.parametrize("decoder", ALL)
def test_open_video_of_clip_tells_its_length_size_and_rate(clip: Path, decoder: Decoder) -> None:
    with open_video(clip, decoder) as video:
        facts = video.num_frames, video.height, video.width, video.fps
    assert facts == (N, 80, 96, 12.0)


@pytest.mark.parametrize("decoder", ALL)
@pytest.mark.parametrize(
    "indices", [[0], [N - 1], [20, 3, 3, 35, 0, 20], list(range(N)), [17, 18, 19]]
)
def test_frames_in_any_order_come_as_asked(
    clip: Path, decoder: Decoder, indices: list[int]
) -> None:
    frames = read(clip, decoder, indices)
    assert frames.shape == (len(indices), 80, 96, 3)
    assert frames.dtype == np.uint8
    assert frame_numbers(frames) == indices


@pytest.mark.parametrize("decoder", ALL)
def test_frames_of_no_indices_is_empty(clip: Path, decoder: Decoder) -> None:
    assert read(clip, decoder, []).shape == (0, 80, 96, 3)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("noise.mp4", "libx264", SHORT_GROUPS),
        ("noise.mkv", "libx264", SHORT_GROUPS),
        ("noise.avi", "mpeg4", {"g": "9"}),
        ("noise.webm", "libvpx-vp9", {"g": "9", "deadline": "realtime"}),
    ],
)
def test_frames_of_noise_are_equal_in_both_decoders(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 80, 3), np.uint8)
    path = write_video(tmp_path / name, noise, codec=codec, **options)
    indices = [19, 4, 11, 12, 0]
    np.testing.assert_array_equal(read(path, "decord", indices), read(path, "pyav", indices))


@pytest.mark.parametrize("decoder", BOTH)
def test_frames_of_lossless_video_are_the_written_pixels(tmp_path: Path, decoder: Decoder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 48, 80, 3), np.uint8)
    path = write_video(tmp_path / "a.mkv", noise, codec="libx264rgb", pix_fmt="rgb24", qp="0")
    np.testing.assert_array_equal(read(path, decoder, range(5)), noise)


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a rotation into an MP4's track header, as telephones do."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    one = 1 << 16
    a, b, c, d = (value * one for value in matrix)
    struct.pack_into(">9i", content, start, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "quarter_turns_left"),
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
@pytest.mark.parametrize("decoder", ALL)
def test_frames_of_rotated_video_are_upright(
    clip: Path,
    tmp_path: Path,
    decoder: Decoder,
    matrix: tuple[int, int, int, int],
    quarter_turns_left: int,
) -> None:
    path = tmp_path / "rotated.mp4"
    path.write_bytes(clip.read_bytes())
    turn(path, matrix)
    expected = np.rot90(read(clip, decoder, [5, 30]), quarter_turns_left, axes=(1, 2))
    with open_video(path, decoder) as video:
        assert (video.height, video.width) == expected.shape[1:3]
        np.testing.assert_array_equal(video.frames([5, 30]), expected)


@pytest.mark.parametrize(
    ("name", "codec", "options", "reason"),
    [
        ("a.mp4", "mpeg4", {"g": "9", "bf": "2"}, "groups of pictures are open"),
        ("a.mkv", "libx264", {"x264-params": OPEN_GROUPS}, "groups of pictures are open"),
        ("a.avi", "libx264", {"g": "9", "bf": "2"}, "AVI files with B-frames"),
        ("a.flv", "libx264", {"g": "9", "bf": "2"}, "flv"),
        ("a.ts", "mpeg2video", {"g": "9", "bf": "2"}, "mpegts"),
    ],
)
def test_frames_of_what_decord_misreads_are_left_to_pyav(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any], reason: str
) -> None:
    # qmax: coarser, MPEG-4 takes a frame's grey for its neighbour's.
    frames = numbered_frames(N)
    path = write_video(tmp_path / name, frames, fps=25, codec=codec, qmax="2", **options)
    with pytest.raises(UnreadableVideoError, match=reason):
        read(path, "decord", [20])
    in_order = read(path, "pyav", range(N))
    assert frame_numbers(in_order) == list(range(N))
    np.testing.assert_array_equal(read(path, "auto", [20, 33, 9]), in_order[[20, 33, 9]])


def test_frames_hidden_by_edit_list_do_not_count(clip: Path, tmp_path: Path) -> None:
    content = bytearray(clip.read_bytes())
    media_time = content.index(b"elst") + 16
    (start,) = struct.unpack_from(">i", content, media_time)
    hidden = 12
    # Frames of this file last 1024 ticks.
    struct.pack_into(">i", content, media_time, start + hidden * 1024)
    path = tmp_path / "edited.mp4"
    path.write_bytes(content)
    with open_video(path) as video:
        assert video.num_frames == N - hidden
        assert frame_numbers(video.frames([0, 5])) == [hidden, hidden + 5]
    with pytest.raises(UnreadableVideoError, match="edit list"):
        read(path, "decord", [0])


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_frames_of_tiny_picture_have_three_channels(tmp_path: Path, decoder: Decoder) -> None:
    path = write_video(tmp_path / "tiny.mp4", numbered_frames(4, 16, 16))
    assert read(path, decoder, [1, 2]).shape == (2, 16, 16, 3)


FORMATS: list[tuple[str, str, str, int, int]] = [
    # file, codec, pixels, height, width
    ("h264.mp4", "libx264", "yuv420p", 80, 96),
    ("odd.mp4", "libx264", "yuv444p", 81, 97),
    ("odd.mov", "qtrle", "rgb24", 81, 97),
    ("tiny.mp4", "libx264", "yuv420p", 32, 36),
    ("grey.mkv", "ffv1", "gray", 80, 96),
    ("grey10.mkv", "ffv1", "gray10le", 80, 96),
    ("ten_bits.mp4", "libx264", "yuv420p10le", 80, 96),
    ("alpha.webm", "libvpx-vp9", "yuva420p", 80, 96),
    ("alpha.mov", "prores_ks", "yuva444p10le", 80, 96),
    ("palette.gif", "gif", "rgb8", 80, 96),
    ("each_alone.avi", "mjpeg", "yuvj420p", 80, 96),
    ("open_groups.mp4", "mpeg4", "yuv420p", 80, 96),
    ("stream.ts", "libx264", "yuv420p", 80, 96),
    ("flash.flv", "libx264", "yuv420p", 80, 96),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "height", "width"), FORMATS)
@pytest.mark.parametrize("decoder", ALL)
def test_reader_of_any_format_gives_the_written_frames_or_refuses(
    tmp_path: Path, decoder: Decoder, name: str, codec: str, pix_fmt: str, height: int, width: int
) -> None:
    # qmax: coarser, MPEG-4 takes a frame's grey for its neighbour's.
    options: dict[str, Any] = {"qmax": "2"} if codec == "mpeg4" else {}
    written = numbered_frames(12, height, width)
    path = write_video(tmp_path / name, written, codec=codec, pix_fmt=pix_fmt, **options)
    indices = [11, 0, 5, 5]
    with open_video(path, decoder) as video:
        assert (video.num_frames, video.height, video.width) == (12, height, width)
        try:
            frames = video.frames(indices)
        except UnreadableVideoError:
            assert decoder == "decord"
            return
    assert frames.shape == (4, height, width, 3)
    assert frames.dtype == np.uint8
    assert frame_numbers(frames) == indices
    # Which way is up, and no colour where there was none.
    assert frames[0, : height // 2 - 8, : width // 2 - 8].mean() < 4
    assert np.ptp(frames.mean(axis=(1, 2)), axis=1).max() < 8


def write_at(path: Path, times_ms: Sequence[int], **options: str) -> Path:
    """Numbered frames shown at the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"bf": "2", **options})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 80, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, time in zip(numbered_frames(len(times_ms)), times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    "times_ms",
    [
        [10 * i * i for i in range(1, 25)],
        [40 * i for i in range(20)] + [20_000 + 40 * i for i in range(4)],
        [50_000 + 83 * i for i in range(24)],
    ],
    ids=["slower", "pause", "late"],
)
@pytest.mark.parametrize("decoder", ALL)
def test_frames_of_variable_rate_are_counted_not_timed(
    tmp_path: Path, decoder: Decoder, times_ms: list[int], name: str
) -> None:
    path = write_at(tmp_path / name, times_ms)
    with open_video(path, decoder) as video:
        assert video.num_frames == len(times_ms)
        indices = [0, 23, 7, 19, 20]
        try:
            assert frame_numbers(video.frames(indices)) == indices
        except UnreadableVideoError:
            assert decoder == "decord"


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.avi", "one.gif"])
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_reader_of_one_frame_gives_it_as_often_as_asked(
    tmp_path: Path, decoder: Decoder, name: str
) -> None:
    codec, pix_fmt = ("gif", "rgb8") if name.endswith("gif") else ("mpeg4", "yuv420p")
    path = write_video(tmp_path / name, numbered_frames(21)[20:], codec=codec, pix_fmt=pix_fmt)
    with open_video(path, decoder) as video:
        assert video.num_frames == 1
        assert frame_numbers(video.frames([0, 0])) == [20, 20]
        with pytest.raises(UnreadableVideoError, match="has 1 frames"):
            video.frames([1])


def test_frames_after_a_change_of_size_have_the_first_size(tmp_path: Path) -> None:
    path = tmp_path / "a.h264"
    parts = [
        write_video(tmp_path / f"{size}.h264", numbered_frames(9, size, 96)) for size in (80, 160)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(path) as video:
        assert (video.num_frames, video.height, video.width) == (18, 80, 96)
        frames = video.frames([8, 17])
    assert frames.shape == (2, 80, 96, 3)
    assert frame_numbers(frames) == [8, 8]


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("b.ts", "mpeg2video")])
def test_reader_of_recording_that_begins_between_key_frames_starts_with_the_first(
    tmp_path: Path, name: str, codec: str
) -> None:
    # qmax: coarser, MPEG-2 takes a frame's grey for its neighbour's.
    options: dict[str, Any] = {"g": "12", "bf": "2", "qmax": "2"}
    path = write_video(tmp_path / name, numbered_frames(N), fps=25, codec=codec, **options)
    packets, content = coded(path), path.read_bytes()
    # The tables of the stream lie before its first frame.
    path.write_bytes(content[: packets[0].start] + content[packets[4].start :])
    with open_video(path) as video:
        frames = video.frames(range(video.num_frames))
        numbers = frame_numbers(frames)
        assert numbers == list(range(numbers[0], N))
        assert numbers[0] > 0
        assert len(numbers) == video.num_frames


def test_open_video_with_a_title_that_is_not_utf8_reads_it(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "titled.mkv"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = "cafe XX"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    content = path.read_bytes()
    assert b"cafe XX" in content
    path.write_bytes(content.replace(b"cafe XX", b"caf\xe9 \xff\xfe"))
    assert frame_numbers(read(path, "pyav", [7])) == [7]


def test_frames_behind_a_packet_that_is_refused_come_from_the_next_key_frame(
    tmp_path: Path,
) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(N), g="12", bf="2")
    packets, content = coded(path), bytearray(path.read_bytes())
    struct.pack_into(">i", content, packets[14].start, 1 << 30)  # a length far beyond the packet
    path.write_bytes(content)
    lost = sorted(packet.time for packet in packets if packet.time is not None).index(
        packets[14].time or 0
    )
    assert 12 < lost < 24
    assert frame_numbers(read(path, "pyav", [11, 24, N - 1])) == [11, 24, N - 1]
    with pytest.raises(UnreadableVideoError, match=r"frame \d+ .*\(Invalid data"):
        read(path, "pyav", [lost])
    walked: list[int] = []
    with open_video(path, "pyav") as video:
        assert isinstance(video, video_file.PyAVReader)
        with pytest.raises(UnreadableVideoError, match="frame"):
            walked.extend(video.walk())
    assert {0, 11} <= set(walked)
    assert lost not in walked


def test_walk_of_a_sound_video_visits_every_frame_once(clip: Path) -> None:
    assert sorted(video_file.PyAVReader(clip).walk()) == list(range(N))


@pytest.mark.parametrize("decoder", ALL)
@pytest.mark.parametrize("num_kept", [1, 20, 21, N - 1])
def test_open_video_of_file_cut_between_frames_tells_what_is_missing(
    clip: Path, tmp_path: Path, decoder: Decoder, num_kept: int
) -> None:
    path = cut_after(clip, num_kept, tmp_path / "cut.mp4")
    with pytest.raises(CutOffVideoError, match=rf"after {num_kept} frames .*promises 36"):
        open_video(path, decoder)


def test_shortfall_of_cut_matroska_is_told_and_of_a_whole_one_is_none(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mkv", numbered_frames(N), g="9")
    assert inspect(whole, "pyav").shortfall is None
    shortfall = inspect(cut_after(whole, 25, tmp_path / "cut.mkv"), "pyav").shortfall
    assert shortfall is not None
    assert shortfall.startswith("its header promises 3.00 s, its frames end at 2.")


@pytest.mark.parametrize("decoder", ALL)
def test_frames_past_the_end_names_both_numbers(clip: Path, decoder: Decoder) -> None:
    with pytest.raises(UnreadableVideoError, match=r"frame 36 .* has 36 frames"):
        read(clip, decoder, [0, N])


@pytest.mark.parametrize("decoder", ALL)
def test_frames_before_the_start_is_a_value_error(clip: Path, decoder: Decoder) -> None:
    with pytest.raises(ValueError, match="start at 0, got -1"):
        read(clip, decoder, [-1])


@pytest.mark.parametrize("decoder", ALL)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_open_video_of_cut_file_tells_what_is_missing(
    clip: Path, tmp_path: Path, decoder: Decoder, share: float
) -> None:
    content = clip.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnreadableVideoError, match=r"cut off .*its header promises 36"):
        open_video(path, decoder)


@pytest.mark.parametrize("decoder", ALL)
def test_frames_after_damage_raise_until_the_next_key_frame(
    tmp_path: Path, decoder: Decoder
) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(N), g="12", bf="0")
    content = bytearray(path.read_bytes())
    for packet in coded(path)[14:18]:
        # A NAL unit type that decoders pass over: the frame is gone, the file is well formed.
        content[packet.start + 4] = 12
    path.write_bytes(content)
    try:
        assert frame_numbers(read(path, decoder, [0, 13])) == [0, 13]
    except UnreadableVideoError:
        assert decoder == "decord"  # how far it has read ahead by then is a matter of timing
    for lost in (14, 17):
        with pytest.raises(UnreadableVideoError):
            read(path, decoder, [lost])


@pytest.mark.parametrize("decoder", ALL)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.mp4", "No such file"),
        ("empty.mp4", "Invalid data"),
        ("text.mp4", "Invalid data"),
        ("zeros.mp4", "Invalid data"),
        ("folder.mp4", "."),
        ("sound.mp4", "no video stream"),
    ],
)
def test_open_video_of_something_else_names_file_and_decoder_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], decoder: Decoder, name: str, reason: str
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("version https://git-lfs.github.com/spec/v1\n" * 50)
    (tmp_path / "zeros.mp4").write_bytes(bytes(4096))
    (tmp_path / "folder.mp4").mkdir()
    write_sound(tmp_path / "sound.mp4")
    tried = {"auto": "decord, pyav"}.get(decoder, decoder)
    with pytest.raises(
        UnreadableVideoError, match=rf"{name} cannot be read by {tried}: .*{reason}"
    ):
        open_video(tmp_path / name, decoder)
    assert capfd.readouterr().err == ""


def test_frames_when_decord_hangs_raises_in_time(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Event()

    class Stuck:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            release.wait(20)

    fake = SimpleNamespace(VideoReader=Stuck, DECORDError=RuntimeError)
    monkeypatch.setattr(decord_library, "load_decord", lambda: fake)
    monkeypatch.setattr(decord_library, "DECODE_LIMIT_SECONDS", 0.05)
    with pytest.raises(UnreadableVideoError, match=r"no answer within 0\.05 s"):
        read(clip, "decord", [0])
    assert frame_numbers(read(clip, "auto", [7])) == [7]
    release.set()


def test_frames_from_many_threads_of_one_reader_are_right(clip: Path) -> None:
    with open_video(clip) as video, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(video.frames, [[i, N - 1 - i] for i in range(N)]))
    assert [frame_numbers(frames) for frames in results] == [[i, N - 1 - i] for i in range(N)]


def test_open_video_with_decord_where_absent_uses_pyav_or_says_so(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_file, "has_decord", lambda: False)
    assert isinstance(open_video(clip), video_file.PyAVReader)
    assert decoder_identity("auto") == decoder_identity("pyav")
    with pytest.raises(DataError, match="not installed"):
        open_video(clip, "decord")


def test_decoder_identity_of_auto_names_both_versions() -> None:
    auto = decoder_identity("auto")
    assert auto == decoder_identity("decord") | decoder_identity("pyav")
    assert {"decord", "av", "libavcodec"} == set(auto)
    assert all(version[0].isdigit() for version in auto.values())


def test_unreadable_video_error_survives_pickling() -> None:
    # Worker processes send it to the one that counts bad videos.
    error = pickle.loads(pickle.dumps(UnreadableVideoError(Path("a.mp4"), "pyav", "empty")))
    assert (str(error), error.exit_code) == ("a.mp4 cannot be read by pyav: empty", 3)


SWEEP = """
import json, sys
from pathlib import Path
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.video_file import open_video
for name in sys.stdin.read().splitlines():
    try:
        with open_video(Path(name)) as video:
            shape = video.frames([0, video.num_frames - 1]).shape
            print(json.dumps([name, video.num_frames, shape]))
    except UnreadableVideoError as error:
        print(json.dumps([name, 0, error.reason]))
"""


def test_open_video_of_every_odd_file_reads_or_refuses_it() -> None:
    folder = shared_data() / "odd"
    with (folder / "manifest.tsv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    names = [str(folder / row["file"]) for row in rows]
    # In a process of its own: a decoder that aborts or hangs must not take the tests with it.
    done = subprocess.run(
        [sys.executable, "-c", SWEEP],
        input="\n".join(names),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = {name: num_frames for name, num_frames, _ in map(json.loads, done.stdout.splitlines())}
    assert list(found) == names
    for row, name in zip(rows, names, strict=True):
        if row["note"] in {"ok", "1 audio", "rotation 90", "rotation -90", "rotation -180"}:
            assert found[name] == int(row["decoded_frames"]), row["file"]
        if row["decoded_frames"] == "0":
            assert found[name] == 0, row["file"]


@pytest.mark.parametrize("folder", ["gestures", "fight"])
def test_frames_of_real_clips_are_equal_in_both_decoders(folder: str) -> None:
    clips = sorted((shared_data() / folder).rglob("*.mp4"))
    generator = np.random.default_rng(0)
    for path in clips[:: max(len(clips) // 4, 1)]:
        with open_video(path, "decord") as one, open_video(path, "pyav") as other:
            indices = [*generator.integers(0, one.num_frames, 4), one.num_frames - 1]
            np.testing.assert_array_equal(one.frames(indices), other.frames(indices))
