"""Whose failure it is when a video cannot be read, by injected failures of both kinds."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from reskd.common.errors import StoppedShortError
from reskd.common.storage.kinds import open_file
from reskd.common.video import attempts
from reskd.common.video.attempts import settled
from reskd.common.video.reader import Decoder, UnreadableVideoError
from reskd.common.video.video_file import PyAVReader, open_video
from tests.video_files import frame_numbers, numbered_frames, write_video

N = 6


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "videos" / "clip.mp4", numbered_frames(N))


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that would have been."""
    waited: list[float] = []
    monkeypatch.setattr("reskd.common.video.attempts.time.sleep", waited.append)
    return waited


class Failing:
    """A function whose first calls raise, one error each; later ones pass it on."""

    def __init__(self, real: Callable[..., Any], *errors: BaseException) -> None:
        self.real, self.errors, self.calls = real, list(errors), 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.real(*args, **kwargs)


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


ODD_ERRORS = [
    av.InvalidDataError(errno.EIO, "Input/output error"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    IndexError("tuple index out of range"),
    AttributeError("'NoneType' object has no attribute 'thread_count'"),
    RuntimeError("[10:20:30] decord.cc:1: check failed"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_that_has_passed_at_the_second_attempt_leaves_no_trace(
    clip: Path, error: Exception, no_waits: list[float]
) -> None:
    ask = Failing(lambda: "frames", error)
    assert settled(ask, clip, "pyav", clip.parent) == "frames"
    assert ask.calls == 2
    assert no_waits == []


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_that_stays_while_the_file_can_be_read_is_damage(
    clip: Path, error: Exception
) -> None:
    with pytest.raises(UnreadableVideoError, match=r"clip\.mp4 cannot be read by pyav: .+") as told:
        settled(Failing(lambda: None, error, error), clip, "pyav", clip.parent)
    assert type(error).__name__ in told.value.reason


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_file_that_the_system_cannot_read_stops_and_a_passing_failure_is_waited_for(
    clip: Path, number: int, monkeypatch: pytest.MonkeyPatch, no_waits: list[float]
) -> None:
    num_attempts = len(attempts.WAITS_SECONDS) + 1
    damage = UnreadableVideoError(clip, "decord", "some text")
    reading = Failing(open_file, *[system_error(number)] * num_attempts)
    monkeypatch.setattr("reskd.common.video.attempts.open_file", reading)
    ask = Failing(lambda: "frames", *[damage] * num_attempts)
    name = errno.errorcode[number]
    with pytest.raises(StoppedShortError, match=rf"clip\.mp4: .*\({name}\).*run the same command"):
        settled(ask, clip, "decord", clip.parent)
    assert no_waits == attempts.WAITS_SECONDS
    reading.errors, ask.errors = [system_error(number)], [damage]
    assert settled(ask, clip, "decord", clip.parent) == "frames"


def gone(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def empty(root: Path) -> None:
    gone(root)
    root.mkdir()


def on_another_device(root: Path) -> None:
    (root / "clip.mp4").unlink()
    (root / "other").touch()
    attempts._devices[root] += 1


def by_itself(root: Path) -> None:
    (root / "clip.mp4").unlink()
    (root / "other").touch()


@pytest.mark.parametrize(
    ("loss", "says"),
    [(gone, "is gone"), (empty, "is empty"), (on_another_device, "another device")],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_missing_file_whose_root_is_lost_stops_the_run(
    clip: Path, loss: Callable[[Path], None], says: str
) -> None:
    video = open_video(clip, "pyav", root=clip.parent)
    loss(clip.parent)
    with pytest.raises(StoppedShortError, match=says):
        video.frames([0])


def test_missing_file_alone_is_an_unreadable_video(clip: Path) -> None:
    video = open_video(clip, root=clip.parent)
    by_itself(clip.parent)
    with pytest.raises(UnreadableVideoError, match="No such file"):
        video.frames([0])


def test_spare_descriptors_are_needed_or_the_system_is_blamed(clip: Path) -> None:
    import resource

    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(opened) + 2, limits[1]))
    try:
        with pytest.raises(StoppedShortError, match=r"EMFILE.*ulimit -n"):
            settled(Failing(lambda: None, *[IndexError()] * 9), clip, "pyav")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in opened:
            os.close(descriptor)


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
@pytest.mark.parametrize("times", [1, 2])
def test_reader_whose_decoder_fails_gives_the_frames_or_damage(
    clip: Path, decoder: Decoder, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = IndexError("list index out of range")
    monkeypatch.setattr(
        "reskd.common.video.video_file.inspect",
        Failing(open_video.__globals__["inspect"], *[error] * times),
    )
    if times == 1:
        assert frame_numbers(open_video(clip, decoder).frames([0, 3])) == [0, 3]
    else:
        with pytest.raises(UnreadableVideoError, match="IndexError: list index"):
            open_video(clip, decoder)


def test_pictures_in_order_go_on_after_a_failure_that_passes(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = open_video(clip, "pyav")
    assert isinstance(video, PyAVReader)
    real, fails = PyAVReader._sound_frames, [True]

    def breaking_off(reader: PyAVReader, positions: Any) -> Any:
        for count, frame in enumerate(real(reader, positions)):
            if count == 2 and fails:
                fails.clear()
                raise IndexError("as a mutant made it")
            yield frame

    monkeypatch.setattr(PyAVReader, "_sound_frames", breaking_off)
    assert sorted(position for position, _ in video.in_order(range(N))) == list(range(N))


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.fspath(path))


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("make", [make_fifo, make_socket, make_device, Path.mkdir])
def test_what_is_no_file_is_refused_unopened(
    tmp_path: Path, decoder: Decoder, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(Path("a.mp4"))
    with pytest.raises(UnreadableVideoError, match="not a file"):
        open_video(Path("a.mp4"), decoder)


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_codec_that_no_decoder_knows_is_damage(clip: Path, decoder: Decoder) -> None:
    clip.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(UnreadableVideoError, match="no decoder knows its codec"):
        open_video(clip, decoder)
