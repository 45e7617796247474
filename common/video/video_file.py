"""Frames of a video file by number: decord where it can be trusted, PyAV elsewhere.

Where both can be, the faster one decodes (see decoder_choice.py).

A decoded frame is taken for frame i only if it carries frame i's presentation time (see facts.py),
so damage shows as an error, never as a neighbour's picture. decord returns wrong frames in some
files; facts.py knows which, and they are refused. What else it does wrong is in decord_library.py.

PyAV marks frames that its codec concealed, and they are refused until the next sound key frame. It
decodes from the first frame up to the last one asked for. Seeking would be faster in long videos
and is exact in most files only.

A picture whose size changes within a video is brought to the size of the first, as decord and
players do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import ClassVar, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reskd.common.errors import DataError
from reskd.common.storage.kinds import kind_besides_file
from reskd.common.video.attempts import Attempts, settled
from reskd.common.video.decoder_choice import STRICT_CODEC, is_dense, picture_alike
from reskd.common.video.decord_library import decode_by_decord, has_decord, load_decord
from reskd.common.video.facts import VideoFacts, inspect, opened, upright
from reskd.common.video.frame_reader import FrameReader
from reskd.common.video.reader import Decoder, UnreadableVideoError

T = TypeVar("T")


class FileReader(FrameReader):
    """A video file."""

    limit = "the file has {} frames; if it was replaced since it was imported, import it again"

    def __init__(
        self, path: Path, facts: VideoFacts | None = None, *, root: Path | None = None
    ) -> None:
        """Read the packets and the first frame; `facts` are those of an earlier reader."""
        self.root = root
        if facts is None:
            facts = settled(lambda: inspect(path, self.decoder), path, self.decoder, root)
        self.facts = facts
        """What the file holds."""
        super().__init__(
            path,
            num_frames=self.facts.num_frames,
            height=self.facts.height,
            width=self.facts.width,
            fps=self.facts.fps,
        )

    def try_out(self) -> None:
        """Decode the last frame, and whatever costs nothing more.

        Raises:
            UnreadableVideoError: If a frame is damaged or missing.
        """
        self.settled(self.try_out_once)

    def try_out_once(self) -> None:
        """One attempt at that, which may raise anything."""
        self.frames_once([self.num_frames - 1])


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

    def judge(self, frame: VideoFrame, *, may_recover: bool) -> None:
        """Look at the next frame."""
        later = self._lost is None or (frame.pts is not None and frame.pts > self._lost)
        afresh = may_recover and frame.key_frame and later
        self.is_present = frame.is_corrupt or (self.is_present and not afresh)


class PyAVReader(FileReader):
    """Decodes from the first frame up to the last one asked for."""

    decoder = "pyav"
    codec_options: ClassVar[Mapping[str, str]] = {}

    def walk(self) -> Iterator[int]:
        """Decode all frames in turn and keep none: yields the number of each sound one.

        Raises:
            UnreadableVideoError: At the first that is damaged; missing ones show at the end.
        """
        for position, _ in self._settled_frames(range(self.num_frames)):
            yield position

    def try_out_once(self) -> None:
        # To the last frame all before it are decoded anyway.
        for _ in self._sound_frames(range(self.num_frames)):
            pass

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
        for position, frame in self._settled_frames(positions):
            yield position, upright(frame, converter, (self.height, self.width))

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        row_of = {position: row for row, position in enumerate(positions)}
        pixels = np.empty((len(positions), self.height, self.width, 3), dtype=np.uint8)
        converter = VideoReformatter()
        for position, frame in self._sound_frames(positions):
            pixels[row_of[position]] = upright(frame, converter, (self.height, self.width))
        return pixels

    def _settled_frames(self, positions: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The same as `_sound_frames`; where it fails, it is asked for what is left."""
        left, attempts = set(positions), Attempts(self.path, self.decoder, self.root)
        while left:
            try:
                for position, frame in self._sound_frames(sorted(left)):
                    left.remove(position)
                    yield position, frame
            except Exception as error:  # noqa: BLE001 - whatever a decoder does (attempts.py)
                attempts.after(error)

    def _sound_frames(self, positions: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The frames at these positions, in the order of the decoder."""
        wanted, damage = set(positions), _Damage()
        with opened(self.path, self.decoder) as (container, stream):
            stream.codec_context.options = dict(self.codec_options)
            for count, frame in enumerate(damage.decode(container, stream)):
                damage.judge(frame, may_recover=self._may_recover)
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

    @property
    def _may_recover(self) -> bool:
        # Where frames are merely counted, a lost one would shift all that follow.
        return self.facts.position_of is not None

    def _position(self, count: int, frame: VideoFrame) -> int:
        position_of = self.facts.position_of
        if position_of is None:
            return count
        return -1 if frame.pts is None else position_of.get(frame.pts, -1)


class DecordReader(FileReader):
    """decord alone; refuses the files it is known to misread."""

    decoder = "decord"

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        if self.facts.misread_by_decord:
            raise self._unreadable(self.facts.misread_by_decord)
        return decode_by_decord(self.path, positions, self.num_frames)


class _AlikeReader(PyAVReader):
    """PyAV while its pixels are sure to be decord's; the first doubt ends it.

    Doubts are whatever the codec finds wrong, since the two conceal it in their own ways, and a
    picture that changes within a video, since they need not scale it alike.
    """

    codec_options = STRICT_CODEC

    @property
    def _may_recover(self) -> bool:
        return False

    def _sound_frames(self, positions: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        for position, frame in super()._sound_frames(positions):
            if picture_alike(frame) != self.facts.alike:
                raise self._unreadable(f"frame {position} is coded in another way than the first")
            yield position, frame


class AutoReader(FileReader):
    """decord, and PyAV for what decord does not decode.

    PyAV comes first where it is faster and sure to make the same pixels. At its first doubt decord
    and then PyAV are asked as everywhere. So who comes first decides nothing about what comes out
    of a sound file, and next to nothing of a damaged one (decoder_choice.py).
    """

    decoder = "decord, pyav"

    def __init__(self, path: Path, *, num_wanted: int, root: Path | None = None) -> None:
        super().__init__(path, root=root)
        dense = is_dense(num_wanted, self.num_frames)
        self.pyav_first = dense and self.facts.alike is not None

    def try_out_once(self) -> None:
        self._of_either(lambda reader: reader.try_out_once())

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        if self.pyav_first:
            with suppress(UnreadableVideoError):  # decord may know better
                return _AlikeReader(self.path, self.facts).frames_once(positions)
        return self._of_either(lambda reader: reader.frames_once(positions))

    def _of_either(self, ask: Callable[[FileReader], T]) -> T:
        try:
            return ask(DecordReader(self.path, self.facts))
        except UnreadableVideoError as error:
            first = error.reason
        try:
            return ask(PyAVReader(self.path, self.facts))
        except UnreadableVideoError as error:
            raise self._unreadable(f"{first}; {error.reason}") from None


def open_video(
    path: Path, decoder: Decoder = "auto", *, num_wanted: int = 0, root: Path | None = None
) -> FileReader:
    """Open a video; usable in a `with` statement.

    Args:
        path: The file.
        decoder: `auto` decodes with decord where it is installed and can, else with PyAV; but with
            the faster one first where both make the same pixels.
        num_wanted: Frames that all views of the video take, as the experiment says, however few
            are asked for here. Says which one that is.
        root: Folder of all videos: where that has gone, its files are not missing.

    Raises:
        UnreadableVideoError: If it is not a whole, decodable video.
        StoppedShortError: If the system cannot read it (attempts.py).
        DataError: If decord is asked for and not installed.
    """
    if decoder == "decord" and not has_decord():
        raise DataError(
            "decoder `decord` was asked for and is not installed (it has no wheels for this kind "
            "of machine, or the package `decord` is missing); install it or choose `pyav`"
        )
    is_auto = decoder == "auto" and has_decord()
    if (kind := kind_besides_file(path)) is not None:  # a pipe would be waited for
        reads = AutoReader.decoder if is_auto else decoder
        raise UnreadableVideoError(path, reads, f"it is {kind}, not a file")
    if is_auto:
        return AutoReader(path, num_wanted=num_wanted, root=root)
    return (DecordReader if decoder == "decord" else PyAVReader)(path, root=root)


def decoder_identity(decoder: Decoder) -> dict[str, str]:
    """Names and versions of what makes the pixels; part of a cache's identity.

    `auto` names both libraries: which of them decodes a video is settled by the file alone, but
    where both make the same pixels.
    """
    pyav = {
        "av": av.__version__,
        # Wheels fix the libraries, but a PyAV built against the system's takes what is there.
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
    }
    if decoder == "pyav" or not has_decord():
        return pyav
    decord = {"decord": str(load_decord().__version__)}
    return decord if decoder == "decord" else decord | pyav
