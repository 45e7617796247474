"""Frames of a video file by number: decord where it can be trusted, PyAV elsewhere.

Both decoders answer to one table of frames, made by reading the file's packets without decoding
them (about 3 ms for ten seconds of video): frame i is the i-th presentation time. A decoded frame
is taken for frame i only if it carries that time, so damage shows as an error, never as a
neighbour's picture. decord by itself repeats the last good frame.

Measured on decord 0.6.0, its last release (2022):

- Right on constant and variable frame rate, B-frames and rotation in MP4 and Matroska, bit for bit
  equal to PyAV for 8-bit video; 10-bit video differs by rounding.
- Silently wrong by a few frames after a seek in videos with open groups of pictures (x265's
  default, MPEG-4 with B-frames), in AVI with B-frames, in FLV and MPEG streams, and wherever an
  edit list hides frames. All of these are refused here, so `auto` takes PyAV.
- Pads some pictures of at most 72 pixels' width, and then fails.
- Knows no AV1, GIF or AVIF.
- Hides what its codec conceals: a damaged picture that still decodes looks like any other. PyAV
  marks such frames, and they are refused until the next sound key frame.
- It reads ahead without bound and aborts the process when one reader is used by two threads, so
  every call opens its own reader in its own thread and drops it at once.
- One of its loops has no bound. A call that outlasts DECODE_LIMIT_SECONDS is given up; its thread
  cannot be ended and keeps one core busy until the process ends.

PyAV decodes from the first frame up to the last one asked for. Seeking would be faster in long
videos and is exact in most files only.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from common.errors import DataError

Decoder = Literal["auto", "decord", "pyav"]
T = TypeVar("T")

DECODE_LIMIT_SECONDS = 120.0
"""Longest wait for one call of decord. Ten seconds of 1080p on a busy core take ten."""

DECORD_ENVIRONMENT = {
    # Polls at the end of a file before decord repeats a frame. The default of 10240 is reached in
    # healthy long videos on a busy machine; a million still pass within a second.
    "DECORD_EOF_RETRY_MAX": "1000000",
    # fault_tol makes the first repeated frame an error; no warning about it is needed.
    "DECORD_DUPLICATE_WARNING_THRESHOLD": "1.0",
}
SOURCE_LINE = re.compile(r"\[[\d:]+\] \S+?:\d+: ")
"""Time and source line that decord puts before its messages."""

ANY_FAULT = 1e-9
"""decord's fault_tol as a share of the frames: not one of them may be made up."""


class UnreadableVideoError(DataError):
    """A video, or a frame of it, that cannot be decoded."""

    def __init__(self, path: Path, decoder: str, reason: str) -> None:
        super().__init__(f"{path} cannot be read by {decoder}: {reason}")
        self.path = path
        self.decoder = decoder
        self.reason = reason

    def __reduce__(self) -> tuple[type[Self], tuple[Path, str, str]]:
        return type(self), (self.path, self.decoder, self.reason)


class VideoReader(Protocol):
    """One video. Holds no open file, so it may be kept, and used by several threads."""

    @property
    def num_frames(self) -> int: ...
    @property
    def height(self) -> int:
        """Pixels, after rotation."""

    @property
    def width(self) -> int:
        """Pixels, after rotation."""

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the video; 0.0 where the file does not say."""

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Decode some frames.

        Args:
            indices: Frame numbers in [0, num_frames), any order, repetitions allowed.

        Returns:
            (len(indices), H, W, 3) RGB, upright, in the order asked.

        Raises:
            UnreadableVideoError: If one of them does not exist or cannot be decoded.
            ValueError: If an index is negative.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What a file holds, from its packets and its first frame."""

    num_frames: int
    height: int
    width: int
    fps: float
    position_of: dict[int, int] | None
    """Presentation time to frame number; None where the file does not tell them reliably."""
    misread_by_decord: str | None
    """Why decord would return wrong frames without saying so; None where it is right."""


@dataclass(frozen=True, slots=True)
class _Packet:
    """One coded frame, in the order of the file."""

    time: int | None
    """Presentation time, in the stream's own unit."""
    is_key: bool


class _Reader:
    """What the readers share: the facts of the file and the checks around decoding."""

    decoder: ClassVar[str]

    def __init__(self, path: Path, facts: _Facts | None = None) -> None:
        """Read the packets and the first frame; `facts` are those of an earlier reader."""
        self.path = path
        self._facts = facts or _inspect(path, self.decoder)

    @property
    def num_frames(self) -> int:
        return self._facts.num_frames

    @property
    def height(self) -> int:
        return self._facts.height

    @property
    def width(self) -> int:
        return self._facts.width

    @property
    def fps(self) -> float:
        return self._facts.fps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """See VideoReader.frames."""
        asked = np.asarray(indices, dtype=np.int64)
        shape = self.height, self.width, 3
        if asked.size == 0:
            return np.empty((0, *shape), dtype=np.uint8)
        if asked.min() < 0:
            raise ValueError(f"frame numbers start at 0, got {asked.min()}")
        if asked.max() >= self.num_frames:
            raise self._unreadable(
                f"frame {asked.max()} was asked for and the file has {self.num_frames} frames; "
                "if it was replaced since it was imported, import it again"
            )
        wanted, place = np.unique(asked, return_inverse=True)
        decoded = self._decode([int(position) for position in wanted])
        if decoded.shape != (len(wanted), *shape):
            raise self._unreadable(
                f"{len(wanted)} frames of {shape} were expected, {decoded.shape} came out"
            )
        # Most requests are sorted and distinct: spare them a copy of all pixels.
        return decoded if np.array_equal(wanted, asked) else decoded[place]

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """Frames at sorted, distinct, valid positions."""
        raise NotImplementedError

    def _unreadable(self, reason: str) -> UnreadableVideoError:
        return UnreadableVideoError(self.path, self.decoder, reason)


class PyAVReader(_Reader):
    """Decodes from the first frame up to the last one asked for."""

    decoder = "pyav"

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        wanted = {position: row for row, position in enumerate(positions)}
        pixels = np.empty((len(positions), self.height, self.width, 3), dtype=np.uint8)
        damaged = False
        with _opened(self.path, self.decoder) as (container, stream):
            for count, frame in enumerate(container.decode(stream)):
                # What refers to a damaged picture is damaged; a sound key frame starts afresh.
                # Where frames are merely counted, a lost one would shift all that follow.
                afresh = frame.key_frame and self._facts.position_of is not None
                damaged = frame.is_corrupt or (damaged and not afresh)
                row = wanted.pop(self._position(count, frame), None)
                if row is None:
                    continue
                if damaged:
                    raise self._unreadable(f"frame {positions[row]} is damaged")
                pixels[row] = self._upright(frame)
                if not wanted:
                    return pixels
        raise self._unreadable(f"frame {min(wanted)} did not come out of the decoder")

    def _position(self, count: int, frame: VideoFrame) -> int:
        position_of = self._facts.position_of
        return count if position_of is None else position_of.get(_pts(frame), -1)

    def _upright(self, frame: VideoFrame) -> NDArray[np.uint8]:
        pixels = _upright(frame)
        if pixels.shape[:2] != (self.height, self.width):
            raise self._unreadable(
                f"the picture changes from {self.height}x{self.width} to "
                f"{pixels.shape[0]}x{pixels.shape[1]} (height x width)"
            )
        return pixels


class DecordReader(_Reader):
    """Opens a fresh decord reader per call; refuses the files decord is known to misread."""

    decoder = "decord"

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        if self._facts.misread_by_decord:
            raise self._unreadable(self._facts.misread_by_decord)
        decord = _decord()
        try:
            return _within(DECODE_LIMIT_SECONDS, lambda: self._get_batch(decord, positions))
        except TimeoutError as error:
            raise self._unreadable(f"no answer within {DECODE_LIMIT_SECONDS:g} s") from error
        except _decord_errors(decord) as error:
            # The first line carries the reason; the rest is a C++ stack trace.
            reason = SOURCE_LINE.sub("", str(error)).partition("\n")[0]
            raise self._unreadable(reason or type(error).__name__) from None

    def _get_batch(self, decord: Any, positions: Sequence[int]) -> NDArray[np.uint8]:
        reader = decord.VideoReader(
            os.fspath(self.path.absolute()), num_threads=1, fault_tol=ANY_FAULT
        )
        try:
            if len(reader) != self.num_frames:
                raise self._unreadable(
                    f"decord counts {len(reader)} frames, {self.num_frames} are shown (edit list)"
                )
            batch: NDArray[np.uint8] = reader.get_batch(positions).asnumpy()
            return batch
        finally:
            # An exception's traceback would keep the reader and its read-ahead alive.
            del reader


class AutoReader(_Reader):
    """decord, and PyAV for what decord does not decode."""

    decoder = "decord, pyav"

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        try:
            return DecordReader(self.path, self._facts).frames(positions)
        except UnreadableVideoError as error:
            first = error.reason
        try:
            return PyAVReader(self.path, self._facts).frames(positions)
        except UnreadableVideoError as error:
            raise self._unreadable(f"{first}; {error.reason}") from None


def open_video(path: Path, decoder: Decoder = "auto") -> VideoReader:
    """Open a video; usable in a `with` statement.

    Args:
        path: The file.
        decoder: `auto` decodes with decord where it is installed and can, else with PyAV.

    Raises:
        UnreadableVideoError: If it is not a whole, decodable video.
        DataError: If decord is asked for and not installed.
    """
    if decoder == "decord" and not _has_decord():
        raise DataError(
            "decoder `decord` was asked for and is not installed (it has no wheels for this kind "
            "of machine, or the package `decord` is missing); install it or choose `pyav`"
        )
    if decoder == "decord":
        return DecordReader(path)
    if decoder == "auto" and _has_decord():
        return AutoReader(path)
    return PyAVReader(path)


def decoder_identity(decoder: Decoder) -> dict[str, str]:
    """Names and versions of what makes the pixels; part of a cache's identity."""
    pyav = {
        "av": av.__version__,
        # Wheels fix the libraries, but a PyAV built against the system's takes what is there.
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
    }
    if decoder == "pyav" or not _has_decord():
        return pyav
    decord = {"decord": str(_decord().__version__)}
    return decord if decoder == "decord" else decord | pyav


def _inspect(path: Path, decoder: str) -> _Facts:
    """Count the frames, map their times and look at the first one."""
    packets: list[_Packet] = []
    with _opened(path, decoder) as (container, stream):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                promised = f" (its header promises {stream.frames})" if stream.frames else ""
                raise UnreadableVideoError(
                    path, decoder, f"it is cut off or damaged after {len(packets)} frames{promised}"
                )
            if packet.size and not packet.is_discard:
                packets.append(_Packet(packet.pts, packet.is_keyframe))
        formats = container.format.name.split(",")
        reorders = bool(stream.codec_context.has_b_frames)
    if not packets:
        raise UnreadableVideoError(path, decoder, "it holds no frames")
    with _opened(path, decoder) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise UnreadableVideoError(path, decoder, "no frame came out of the decoder")
        height, width, _ = _upright(first).shape
        return _Facts(
            num_frames=len(packets),
            height=height,
            width=width,
            fps=float(stream.average_rate or 0),
            position_of=_positions(formats, packets),
            misread_by_decord=_misread_by_decord(formats, packets, reorders=reorders),
        )


def _positions(formats: Sequence[str], packets: Sequence[_Packet]) -> dict[int, int] | None:
    """Frame number of each presentation time, where there is one per frame."""
    times = sorted({packet.time for packet in packets if packet.time is not None})
    # AVI stores no presentation times; those FFmpeg makes up do not survive B-frames.
    if len(times) != len(packets) or "avi" in formats:
        return None
    return {time: position for position, time in enumerate(times)}


def _misread_by_decord(
    formats: Sequence[str], packets: Sequence[_Packet], *, reorders: bool
) -> str | None:
    if misread := {"flv", "mpeg", "mpegts"}.intersection(formats):
        return f"decord seeks to wrong frames in this format, {misread.pop()}"
    if "avi" in formats:
        return "decord seeks to wrong frames in AVI files with B-frames" if reorders else None
    key_time: int | None = None
    for packet in packets:
        if packet.time is None:
            return "the file gives its frames no presentation times, by which decord finds them"
        if packet.is_key:
            key_time = packet.time
        elif key_time is not None and packet.time < key_time:
            # Such frames need the group before, which decord skips when it seeks to the key frame.
            return "its groups of pictures are open, after which decord miscounts"
    return None


@contextmanager
def _opened(path: Path, decoder: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file's main video stream; FFmpeg's errors leave as UnreadableVideoError."""
    try:
        # Absolute, because FFmpeg takes "a:b.mp4" for a protocol called "a".
        with av.open(os.fspath(path.absolute())) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise UnreadableVideoError(path, decoder, "it has no video stream")
            # Many videos are decoded side by side; threads of one would only get in the way.
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableVideoError(path, decoder, reason) from error


def _pts(frame: VideoFrame) -> int:
    return -1 if frame.pts is None else frame.pts


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, turned by the rotation that the container asks players to show."""
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.rot90(pixels, frame.rotation // 90)


def _has_decord() -> bool:
    return find_spec("decord") is not None


@cache
def _decord() -> Any:
    """Import decord, quiet. It reads its environment once, while it is loaded."""
    for name, value in DECORD_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    decord = import_module("decord")
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _decord_errors(decord: Any) -> tuple[type[Exception], ...]:
    """What decord raises for files it cannot read; its own two classes share no base."""
    limit_reached: type[Exception] = import_module("decord._ffi.base").DECORDLimitReachedError
    own: type[Exception] = decord.DECORDError
    return own, limit_reached, RuntimeError, LookupError, ValueError, AssertionError


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Run a call in a thread of its own and wait for it.

    Raises:
        TimeoutError: If it is not done in time. The thread goes on; it cannot be ended.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            outcome.set_exception(error)

    # A daemon, so that a stuck decoder does not also keep the process from ending.
    Thread(target=run, name="decord", daemon=True).start()
    return outcome.result(timeout=seconds)
