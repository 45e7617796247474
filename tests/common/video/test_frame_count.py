"""Files with packets that show no frame: every frame is the one that decoding in order gives."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from reskd.common.video.facts import upright
from reskd.common.video.frame_count import (
    Clues,
    CodedPacket,
    Times,
    hides_picture,
    shown_times,
)
from reskd.common.video.reader import Decoder, UnreadableVideoError, in_parts
from reskd.common.video.video_file import FileReader, open_video
from tests.video_cuts import copy_packets, key_places, num_packets
from tests.video_files import Frames, numbered_frames, shared_data, write_video

N = 36
GROUP = 12
OPEN = f"open-gop=1:keyint={GROUP}:min-keyint={GROUP}:scenecut=0:bframes=3:b-adapt=0"
ENCODERS = {
    "h264": ("libx264", {"x264-params": OPEN}),
    "hevc": ("libx265", {"x265-params": f"{OPEN}:log-level=none:pools=none:frame-threads=1"}),
    "mpeg2": ("mpeg2video", {"g": str(GROUP), "bf": "2", "qmax": "2"}),
    "mpeg4": ("mpeg4", {"g": str(GROUP), "bf": "2", "qmax": "2"}),
}


Whole = Callable[[str], Path]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A video of open groups of pictures, by its codec; H.264 with its setup in every group."""
    folder, made = tmp_path_factory.mktemp("whole"), dict[str, Path]()

    def video(codec: str) -> Path:
        if codec not in made:
            encoder, options = ENCODERS[codec]
            path = folder / f"{codec}{'.ts' if codec == 'h264' else '.mp4'}"
            made[codec] = write_video(path, numbered_frames(N), 25, encoder, **options)
        return made[codec]

    return video


def in_order(path: Path) -> Frames:
    """All frames that the decoder gives, from the first packet to the last."""
    converter = VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        pictures = []
        for packet in container.demux(stream):
            with suppress(av.InvalidDataError):  # it may begin in the middle
                pictures += [upright(frame, converter) for frame in packet.decode()]
        return np.stack(pictures)


def assert_read_in_every_way(path: Path) -> None:
    expected = in_order(path)
    for decoder in ("auto", "pyav"):
        video = open_video(path, decoder)
        assert video.num_frames == len(expected)
        np.testing.assert_array_equal(video.frames(range(len(expected))), expected)
        for index in reversed(range(len(expected))):
            np.testing.assert_array_equal(video.frames([index])[0], expected[index])
        video.try_out()
    if len(expected) != num_packets(path):
        with pytest.raises(UnreadableVideoError, match=r"packets show|edit list|groups .* open"):
            open_video(path, "decord").frames([0])


SHIFTS = {"from_zero": None, "as_it_was": 0, "before_zero": -GROUP - 2}
CUTS = [
    (codec, suffix)
    for codec in ENCODERS
    for suffix in (".mkv", ".mp4", ".ts", ".avi")
    if (codec, suffix) not in {("hevc", ".avi"), ("mpeg4", ".ts")}  # no setup is written there
]


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize(("codec", "suffix"), CUTS)
def test_frames_of_video_cut_at_an_open_group_are_those_that_come_in_order(
    whole: Whole, tmp_path: Path, codec: str, suffix: str, shift: int | None
) -> None:
    source = whole(codec)
    path = tmp_path / f"cut{suffix}"
    assert_read_in_every_way(copy_packets(source, path, first=key_places(source)[-2], shift=shift))


@pytest.mark.parametrize(("codec", "suffix"), [cut for cut in CUTS if cut[0] != "mpeg4"])
def test_frames_of_video_cut_between_key_frames_are_those_that_come_in_order(
    whole: Whole, tmp_path: Path, codec: str, suffix: str
) -> None:
    source = whole(codec)
    path = tmp_path / f"cut{suffix}"
    assert_read_in_every_way(copy_packets(source, path, first=key_places(source)[-1] - 5))


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2"])
@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (2, 0), (0, 2)])
def test_frames_of_joined_transport_streams_are_those_that_come_in_order(
    whole: Whole, tmp_path: Path, codec: str, first: int, second: int
) -> None:
    source, path = whole(codec), tmp_path / "joined.ts"
    parts = [
        copy_packets(source, tmp_path / f"{place}.ts", first=key_places(source)[place])
        for place in (first, second)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert_read_in_every_way(path)


def test_transport_stream_that_lost_a_piece_is_refused(whole: Whole, tmp_path: Path) -> None:
    path = copy_packets(whole("h264"), tmp_path / "a.ts")
    content = path.read_bytes()
    middle = len(content) // 188 // 2 * 188
    path.write_bytes(content[:middle] + content[middle + 188 :])
    with pytest.raises(UnreadableVideoError, match="cut off or damaged after"):
        open_video(path)


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".ivf", ".avi"])
def test_pictures_hidden_by_vp8_are_no_frames(tmp_path: Path, suffix: str) -> None:
    source = write_video(tmp_path / "whole.webm", numbered_frames(N), 25, "libvpx")
    hidden = {5, 17, 18}
    path = copy_packets(
        source,
        tmp_path / f"hidden{suffix}",
        change=lambda n, data: bytes([data[0] & ~0b0001_0000]) + data[1:] if n in hidden else data,
    )
    assert open_video(path).num_frames == N - len(hidden)
    assert_read_in_every_way(path)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_packets_of_mpeg4_that_stand_for_nothing_are_no_frames(tmp_path: Path, suffix: str) -> None:
    source = write_video(tmp_path / "whole.mp4", numbered_frames(N), 25, "mpeg4", g=str(GROUP))
    nothing = b"\0\0\1\xb6" + (0b0101_0000_0100_1111).to_bytes(2)
    path = copy_packets(
        source,
        tmp_path / f"nothing{suffix}",
        change=lambda number, data: nothing if number in {15, 16, 30} else data,
    )
    assert open_video(path).num_frames == N - 3
    assert_read_in_every_way(path)


@pytest.mark.parametrize(
    ("codec", "content", "hidden"),
    [
        ("vp8", [0b0001_0000], False),
        ("vp8", [0b0000_0001], True),
        ("vp9", [0b1000_0010, 0], False),  # shown
        ("vp9", [0b1000_1000, 0], False),  # one of those kept is shown
        ("vp9", [0b1000_0100, 0], True),
        ("vp9", [0b1000_0100, 0b1100_0001], False),  # several pictures and their index
        ("vp9", [0b1011_0001, 0], False),  # profile 3
        ("vp9", [0b1011_0010, 0], True),
        ("h264", [0], False),
    ],
)
def test_hides_picture(codec: str, content: list[int], hidden: bool) -> None:
    assert hides_picture(codec, av.Packet(bytes(content))) is hidden


MP4 = Clues(formats=["mov", "mp4"], reorders=True, first_time=0, is_interlaced=False)


def key(time: int | None, **more: bool) -> CodedPacket:
    return CodedPacket(time, is_key=True, **more)


def other(time: int | None, **more: bool) -> CodedPacket:
    return CodedPacket(time, is_key=False, **more)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Packets and how many of them must be decoded."""

    id: str
    packets: list[CodedPacket]
    clues: Clues = MP4
    outcomes: dict[int, Times]
    """What the decoder gives of so many packets; none other may be asked for."""
    times: Times


CASES = [
    Case(
        id="closed groups: at their word",
        packets=[key(0), other(2), other(1), key(3), other(4)],
        outcomes={},
        times=[0, 1, 2, 3, 4],
    ),
    Case(
        id="open group later: at their word",
        packets=[key(0), other(2), other(1), key(5), other(3), other(4)],
        outcomes={},
        times=[0, 1, 2, 3, 4, 5],
    ),
    Case(
        id="leading pictures: the first group tells",
        packets=[key(2), other(0), other(1), key(5), other(3), other(4)],
        clues=MP4._replace(first_time=2),
        outcomes={3: [2]},
        times=[2, 3, 4, 5],
    ),
    Case(
        id="one leading picture can be decoded",
        packets=[key(2), other(0), other(1), key(3)],
        clues=MP4._replace(first_time=1),
        outcomes={3: [1, 2]},
        times=[1, 2, 3],
    ),
    Case(
        id="leading pictures without a time",
        packets=[key(0), other(None), other(2), other(1), key(3)],
        outcomes={4: [0, 1, 2]},
        times=[0, 1, 2, 3],
    ),
    Case(
        id="leading pictures that an edit list leaves out",
        packets=[key(0, is_cut=True), other(-1, is_cut=True), other(1), key(2)],
        clues=MP4._replace(first_time=1),
        outcomes={},
        times=[1, 2],
    ),
    Case(
        id="a hidden picture has another's time",
        packets=[key(0), other(1, is_hidden=True), other(1), other(2)],
        outcomes={},
        times=[0, 1, 2],
    ),
    Case(
        id="frames of two packets: all are decoded",
        packets=[key(0), other(1), other(2), other(3), key(4), other(5)],
        clues=MP4._replace(is_interlaced=True),
        outcomes={4: [0, 2], 6: [0, 2, 4]},
        times=[0, 2, 4],
    ),
    Case(
        id="joined, times begin anew",
        packets=[key(0), other(1), key(0), other(1)],
        outcomes={4: [0, 1, 0, 1]},
        times=[0, 1, 0, 1],
    ),
    Case(
        id="joined, times of the second between those of the first",
        packets=[key(0), other(2), other(4), key(3), other(5)],
        outcomes={5: [0, 2, 4, 3, 5]},
        times=[0, 2, 4, 3, 5],
    ),
    Case(
        id="joined, an open group a while after what it followed",
        packets=[key(0), other(2), other(1), key(20), other(18), other(19), other(21)],
        outcomes={7: [0, 1, 2, 20, 21]},
        times=[0, 1, 2, 20, 21],
    ),
    Case(
        id="closed groups with a pause: at their word",
        packets=[key(0), other(2), other(1), key(20), other(22), other(21)],
        outcomes={},
        times=[0, 1, 2, 20, 21, 22],
    ),
    Case(
        id="no key frame",
        packets=[other(0), other(1), other(2)],
        outcomes={3: [2]},
        times=[2],
    ),
    Case(
        id="a transport stream is looked into",
        packets=[key(0), other(1), key(2)],
        clues=MP4._replace(formats=["mpegts"]),
        outcomes={2: [0, 1]},
        times=[0, 1, 2],
    ),
    Case(
        id="AVI tells no times",
        packets=[key(0), other(1), other(2), key(3)],
        clues=MP4._replace(formats=["avi"]),
        outcomes={3: [0, 2, 1]},
        times=[0, 1, 2, 3],
    ),
    Case(
        id="AVI that lacks a frame",
        packets=[key(0), other(1), other(2), key(3)],
        clues=MP4._replace(formats=["avi"]),
        outcomes={3: [0, 2], 4: [0, 2, 3]},
        times=[0, 2, 3],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_shown_times(case: Case) -> None:
    asked: list[int] = []

    def decode(num_packets: int) -> Times:
        asked.append(num_packets)
        return case.outcomes[num_packets]

    assert shown_times(case.packets, case.clues, decode) == case.times
    assert asked == list(case.outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_odd_files_are_imported_if_and_only_if_all_their_frames_are_read(decoder: Decoder) -> None:
    paths = [path for path in sorted((shared_data() / "odd").glob("*/*")) if path.is_file()]
    assert paths
    differing = {
        path.name: accepted
        for path in paths
        if (accepted := can(path, decoder, lambda video: video.try_out()))
        != can(path, decoder, read_all)
    }
    assert not differing


def read_all(video: FileReader) -> None:
    for indices in in_parts(range(video.num_frames), video, most_bytes=2**26):
        video.frames(indices)


def can(path: Path, decoder: Decoder, use: Callable[[FileReader], None]) -> bool:
    try:
        use(open_video(path, decoder))
    except UnreadableVideoError:
        return False
    return True
