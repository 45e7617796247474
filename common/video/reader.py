"""Frames of a video file by number: decord where it can be trusted, PyAV elsewhere.

A decoded frame is taken for frame i only if it carries frame i's presentation time (see facts.py),
so damage shows as an error, never as a neighbour's picture. decord by itself repeats the last good
frame, and in some files returns wrong ones; facts.py knows which, and they are refused.

What else was measured on decord 0.6.0, its last release (2022):

- Bit for bit equal to PyAV for 8-bit video; 10-bit video differs by rounding.
- Pads some pictures of at most 72 pixels' width, and then fails. Knows no AV1, GIF or AVIF.
- Hides what its codec conceals: a damaged picture that still decodes looks like any other. PyAV
  marks such frames, and they are refused until the next sound key frame.
- It stumbles over damage it has read ahead to, so whether the sound frames just before it come out
  is a matter of timing; `auto` asks PyAV then, which always gives them.
- It reads ahead without bound and aborts the process when one reader is used by two threads, so
  every call opens its own reader in its own thread and drops it at once.
- One of its loops has no bound. A call that outlasts DECODE_LIMIT_SECONDS is given up; its thread
  cannot be ended and keeps one core busy until the process ends.

A picture whose size changes within a video is brought to the size of the first, as decord and
players do.

PyAV decodes from the first frame up to the last one asked for. Seeking would be faster in long
videos and is exact in most files only.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import inf
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reskd.common.errors import DataError
from reskd.common.video.facts import UnreadableVideoError, VideoFacts, inspect, opened, upright

__all__ = [
    "AutoReader",
    "Decoder",
    "DecordReader",
    "FileReader",
    "PyAVReader",
    "UnreadableVideoError",
    "VideoReader",
    "decoder_identity",
    "open_video",
]

Decoder = Literal["auto", "decord", "pyav"]
T = TypeVar("T")

DECODE_LIMIT_SECONDS = 120.0
"""Longest wait for one call of decord. Ten seconds of 1080p on a busy core take ten."""

DECORD_ENVIRONMENT = {
    # Polls before decord, at the end of a file, repeats a frame. Packets read ahead of a slow
    # decoder count too (64 polls fail sound files of 100 frames), so it must exceed their number.
    "DECORD_EOF_RETRY_MAX": "1000000",
    # fault_tol makes the first repeated frame an error; no warning about it is needed.
    "DECORD_DUPLICATE_WARNING_THRESHOLD": "1.0",
}
SOURCE_LINE = re.compile(r"\[[\d:]+\] \S+?:\d+: ")
"""Time and source line that decord puts before its messages."""

ANY_FAULT = 1e-9
"""decord's fault_tol as a share of the frames: not one of them may be made up."""


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


class FileReader:
    """What the readers of video files share: the facts and the checks around decoding."""

    decoder: ClassVar[str]

    def __init__(self, path: Path, facts: VideoFacts | None = None) -> None:
        """Read the packets and the first frame; `facts` are those of an earlier reader."""
        self.path = path
        self._facts = facts or inspect(path, self.decoder)

    @property
    def facts(self) -> VideoFacts:
        """What the file holds."""
        return self._facts

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


class _Damage:
    """Whether the frame just decoded can be trusted.

    What refers to a damaged picture, or to one that was lost, is damaged; a sound key frame shown
    later starts afresh.
    """

    def __init__(self) -> None:
        self.is_present = False
        self.because = ""
        self._lost: float | None = None
        """Presentation time of the last packet that the decoder refused."""

    def decode(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """All frames that come out: a packet that the decoder refuses does not end the video."""
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.InvalidDataError as error:
                self.is_present, self.because = True, f" ({error.strerror})"
                self._lost = inf if packet.pts is None else packet.pts

    def judge(self, frame: VideoFrame, *, may_mend: bool) -> None:
        """Look at the next frame."""
        later = self._lost is None or (frame.pts is not None and frame.pts > self._lost)
        afresh = may_mend and frame.key_frame and later
        self.is_present = frame.is_corrupt or (self.is_present and not afresh)


class PyAVReader(FileReader):
    """Decodes from the first frame up to the last one asked for."""

    decoder = "pyav"

    def walk(self) -> Iterator[int]:
        """Decode all frames in turn and keep none: yields the number of each sound one.

        Raises:
            UnreadableVideoError: At the first that is damaged; missing ones show at the end.
        """
        for position, _ in self.in_order(range(self.num_frames)):
            yield position

    def in_order(self, positions: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Decode the file once and hand out some of its frames on the way.

        Args:
            positions: Distinct frame numbers in [0, num_frames).

        Yields:
            The number and (H, W, 3) RGB, upright, in the order of the decoder.

        Raises:
            UnreadableVideoError: At the first that is damaged; missing ones show at the end.
        """
        converter = VideoReformatter()
        for position, frame in self._sound_frames(positions):
            yield position, upright(frame, converter, (self.height, self.width))

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        row_of = {position: row for row, position in enumerate(positions)}
        pixels = np.empty((len(positions), self.height, self.width, 3), dtype=np.uint8)
        for position, picture in self.in_order(positions):
            pixels[row_of[position]] = picture
        return pixels

    def _sound_frames(self, positions: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The frames at these positions, in the order of the decoder."""
        wanted, damage = set(positions), _Damage()
        with opened(self.path, self.decoder) as (container, stream):
            for count, frame in enumerate(damage.decode(container, stream)):
                # Where frames are merely counted, a lost one would shift all that follow.
                damage.judge(frame, may_mend=self._facts.position_of is not None)
                position = self._position(count, frame)
                if position not in wanted:
                    continue
                if damage.is_present:
                    raise self._unreadable(f"frame {position} is damaged{damage.because}")
                wanted.remove(position)
                yield position, frame
                if not wanted:
                    return
        raise self._unreadable(
            f"frame {min(wanted)} did not come out of the decoder{damage.because}"
        )

    def _position(self, count: int, frame: VideoFrame) -> int:
        position_of = self._facts.position_of
        if position_of is None:
            return count
        return -1 if frame.pts is None else position_of.get(frame.pts, -1)


class DecordReader(FileReader):
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


class AutoReader(FileReader):
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
