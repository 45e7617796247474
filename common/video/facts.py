"""What a video file holds: its frames and their times, from its packets, and its size.

Frame i is the frame with the i-th presentation time. The table of times is made without decoding
(about 3 ms for ten seconds of video, and 10 ms more for the first frame), and every decoder
is held to it.

It also tells where decord 0.6.0 is silently wrong by a few frames, as measured against decoding in
order: after a seek in videos with open groups of pictures (MPEG-4 with B-frames, x264's open-gop,
x265 without closed ones), in AVI with B-frames, in FLV and in MPEG program and transport streams.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple, Never

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reskd.common.video.decoder_choice import ALIKE_CODEC, Picture, picture_alike
from reskd.common.video.frame_count import (
    STREAMED,
    Clues,
    CodedPacket,
    Times,
    decode_times,
    decoded_if_accepted,
    hides_picture,
    is_tiny,
    joined_there,
    rises,
    shown_times,
)
from reskd.common.video.reader import UnreadableVideoError

DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
"""As Matroska's writers put the length of a stream: hours, minutes, seconds."""


class NoVideoStreamError(UnreadableVideoError):
    """A file that holds no pictures, such as a sound recording."""


class CutOffVideoError(UnreadableVideoError):
    """A file that ends, or is damaged, before the frames that its header promises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """What a file holds, from its packets and its first frame."""

    num_frames: int
    height: int
    width: int
    fps: float
    position_of: dict[int, int] | None
    """Presentation time to frame number; None where the file does not tell them reliably."""
    misread_by_decord: str | None
    """Why decord would return wrong frames without saying so; None where it is right."""
    alike: Picture | None
    """How the first frame is coded, if decord and PyAV make the same pixels of it."""
    shortfall: str | None
    """What the header promises beyond what is there; None if nothing. Headers err in sound files
    too (a last frame that is shown for long, frames that were never coded), so this alone does not
    make a video unreadable."""


class _Header(NamedTuple):
    """What the beginning of a file says about the rest; zeros where it does not."""

    formats: Sequence[str]
    """FFmpeg's names of the container."""
    num_frames: int
    seconds: float
    """End of the last frame."""
    fps: float


def inspect(path: Path, decoder: str) -> VideoFacts:
    """Count the frames, map their times and look at the first one."""
    coded = _coded(path, decoder)
    shortfall = _shortfall(path, decoder, coded)
    if not any(packet.is_shown for packet in coded.packets):
        raise UnreadableVideoError(path, decoder, "it holds no frames")
    formats = coded.header.formats
    first = _first_frame(path, decoder, formats)
    try:
        height, width, _ = upright(first, VideoReformatter()).shape
    except av.FFmpegError as error:
        reason = f"its colours cannot be brought to RGB ({error.strerror})"
        raise UnreadableVideoError(path, decoder, reason) from error
    clues = Clues(
        formats=formats,
        reorders=coded.reorders,
        first_time=first.pts,
        is_interlaced=first.interlaced_frame,
    )
    times = shown_times(coded.packets, clues, partial(_decoded_times, path, decoder))
    if not times:
        raise UnreadableVideoError(path, decoder, "no frame came out of the decoder")
    return VideoFacts(
        num_frames=len(times),
        height=height,
        width=width,
        fps=coded.header.fps,
        position_of=_positions(formats, times),
        misread_by_decord=_misread_by_decord(coded, times),
        alike=picture_alike(first) if coded.codec == ALIKE_CODEC else None,
        shortfall=shortfall,
    )


class _Coded(NamedTuple):
    """What lies in a file, before anything is decoded."""

    header: _Header
    codec: str
    """FFmpeg's name."""
    packets: Sequence[CodedPacket]
    end_seconds: float
    """End of the last packet."""
    reorders: bool


def _coded(path: Path, decoder: str) -> _Coded:
    packets: list[CodedPacket] = []
    end = 0
    with opened(path, decoder) as (container, stream):
        formats, codec = container.format.name.split(","), stream.codec_context
        is_avc = _is_avc(codec)
        for packet in container.demux(stream):
            if packet.is_corrupt and not STREAMED.intersection(formats):
                _refuse_damage(path, decoder, len(packets), stream.frames)
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
            if packet.size:
                packets.append(
                    CodedPacket(
                        packet.pts,
                        packet.is_keyframe,
                        is_cut=packet.is_discard,
                        is_hidden=hides_picture(codec.name, packet),
                        is_clean=not (packet.is_keyframe and is_avc) or _has_idr(bytes(packet)),
                        is_damaged=packet.is_corrupt,
                        is_tiny=is_tiny(codec.name, packet),
                    )
                )
        header = _Header(
            formats=formats,
            num_frames=stream.frames,
            seconds=_promised_seconds(stream),
            fps=float(stream.average_rate or 0),
        )
        unit = stream.time_base or Fraction(0)
        reorders = bool(codec.has_b_frames)
    for place, coded in enumerate(packets):
        if coded.is_damaged and not joined_there(packets, place, unit=unit):
            _refuse_damage(path, decoder, place, header.num_frames)
    return _Coded(header, codec.name, packets, float(end * unit), reorders)


def _refuse_damage(path: Path, decoder: str, num_before: int, num_promised: int) -> Never:
    promised = f" (its header promises {num_promised})" if num_promised else ""
    raise CutOffVideoError(
        path, decoder, f"it is cut off or damaged after {num_before} frames{promised}"
    )


def _first_frame(path: Path, decoder: str, formats: Sequence[str]) -> VideoFrame:
    with opened(path, decoder) as (container, stream):
        frames = container.decode(stream)
        if STREAMED.intersection(formats):  # may begin with what a decoder refuses
            packets = container.demux(stream)
            frames = (frame for packet in packets for frame in decoded_if_accepted(packet))
        if (first := next(frames, None)) is None:
            raise UnreadableVideoError(path, decoder, "no frame came out of the decoder")
        return first


def _decoded_times(path: Path, decoder: str, num_packets: int) -> Times:
    with opened(path, decoder) as (container, stream):
        return decode_times(container, stream, num_packets)


def _promised_seconds(stream: VideoStream) -> float:
    """End of the last frame according to the header, in seconds; 0.0 where it does not say."""
    # Matroska tells it for a stream in a tag alone; what it says of the whole file may be sound.
    if match := DURATION_TAG.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, match.groups())
        return hours * 3600 + minutes * 60 + seconds
    return 0.0


def _shortfall(path: Path, decoder: str, coded: _Coded) -> str | None:
    header, num_coded = coded.header, len(coded.packets)
    if num_coded < header.num_frames and "mp4" in header.formats:
        # A table of all frames: what it lists beyond the end of the file is lost. But a sound file
        # may leave frames out by its edit list.
        with opened(path, decoder, {"ignore_editlist": "1"}) as (container, stream):
            num_coded = sum(packet.size > 0 for packet in container.demux(stream))
        if num_coded < header.num_frames:
            promised = f"its header promises {header.num_frames}"
            raise CutOffVideoError(
                path, decoder, f"it is cut off after {num_coded} frames ({promised})"
            )
        return None
    if num_coded < header.num_frames:
        return f"its header promises {header.num_frames} frames and {num_coded} are there"
    if header.seconds - coded.end_seconds > 0.5 / (header.fps or 1):
        ends = f"its frames end at {coded.end_seconds:.2f} s"
        return f"its header promises {header.seconds:.2f} s, {ends}"
    return None


def _positions(formats: Sequence[str], times: Times) -> dict[int, int] | None:
    """Frame number of each presentation time, where there is one per frame."""
    # AVI stores no presentation times; those FFmpeg makes up do not survive B-frames.
    if "avi" in formats or not rises(times):
        return None
    return {time: position for position, time in enumerate(times) if time is not None}


def _misread_by_decord(coded: _Coded, times: Times) -> str | None:
    formats = coded.header.formats
    packets = [packet for packet in coded.packets if not packet.is_cut]
    if len(packets) != len(times):
        return (
            f"its {len(packets)} packets show {len(times)} frames, and decord takes every packet "
            "for a frame"
        )
    if misread := {"flv", *STREAMED}.intersection(formats):
        return f"decord seeks to wrong frames in this format, {misread.pop()}"
    if "avi" in formats:
        return "decord seeks to wrong frames in AVI files with B-frames" if coded.reorders else None
    if len({packet.time for packet in packets} - {None}) != len(packets):
        return "decord finds frames by their presentation times, and some lack one of their own"
    if not rises(times):
        return "decord finds frames by their presentation times, and these go back in between"
    key_time: int | None = None
    for packet in packets:
        assert packet.time is not None
        if packet.is_key:
            key_time = packet.time
        # Such frames need the group before, which decord skips when it seeks to the key frame.
        leads = key_time is not None and packet.time < key_time
        if leads or not packet.is_clean:
            return "its groups of pictures are open, and decord miscounts after seeking to one"
    return None


def _is_avc(codec: VideoCodecContext) -> bool:
    """H.264 as MP4 and Matroska hold it: NAL units after their lengths in four bytes."""
    setup = codec.extradata or b""
    return codec.name == "h264" and len(setup) > 4 and setup[0] == 1 and setup[4] & 3 == 3


def _has_idr(packet: bytes) -> bool:
    """Whether an H.264 key frame is an IDR picture; others are mere points of recovery."""
    start = 0
    while start + 4 < len(packet):
        if packet[start + 4] & 31 == 5:
            return True
        start += 4 + int.from_bytes(packet[start : start + 4], "big")
    return False


@contextmanager
def opened(
    path: Path, decoder: str, options: Mapping[str, str] | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file's main video stream; FFmpeg's errors leave as UnreadableVideoError."""
    try:
        # Absolute, because FFmpeg takes "a:b.mp4" for a protocol called "a". Titles in old codes
        # are no reason to refuse a video.
        with av.open(
            os.fspath(path.absolute()), metadata_errors="replace", options=dict(options or {})
        ) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise NoVideoStreamError(path, decoder, "it has no video stream")
            if stream.codec_context is None:  # which PyAV's types do not tell
                raise UnreadableVideoError(path, decoder, "no decoder knows its codec")
            # Many videos are decoded side by side; threads of one would only get in the way.
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableVideoError(path, decoder, reason) from error


def upright(
    frame: VideoFrame, converter: VideoReformatter, shape: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, turned by the rotation that the container asks players to show.

    One converter for all frames of a video halves the time: it is costly to set up.

    Args:
        frame: As decoded.
        converter: Of this video.
        shape: Height and width to bring it to, after the turn, where the size changes within a
            video; None leaves it.
    """
    quarter_turns, rest = divmod(frame.rotation, 90)
    height, width = shape or (None, None)
    if quarter_turns % 2 and not rest:
        height, width = width, height
    converted = converter.reformat(frame, width=width, height=height, format="rgb24")
    pixels = converted.to_ndarray().astype(np.uint8, copy=False)
    # Like decord: a slanted picture, which no camera makes, is left as it is.
    return pixels if rest else np.rot90(pixels, quarter_turns)
