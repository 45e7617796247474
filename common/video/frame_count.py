"""Which frames a file shows: a packet is not a frame.

VP8 and VP9 hide pictures that others only refer to. A video cut without decoding begins with
pictures whose references were cut away; joined files repeat times; a picture may be two packets, or
a packet no picture. What a decoder gives, from the first packet to the last, is what players show,
and decides. To decode is costly, so a file is taken at its packets' word where they leave no doubt,
else its beginning is decoded, and the whole of it only where that tells too little.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

Times = list[int | None]
"""Presentation times, in a stream's own unit; None where a frame has none."""

STREAMED = frozenset({"mpeg", "mpegts"})
"""Containers that may begin and end anywhere, and that people join end to end."""

EMPTY_PICTURE_BYTES = 19
"""Packets of MPEG-4 up to this size may only say that nothing has changed, and show no frame."""

MOST_LEADING = 64
"""Pictures whose references may lie before the first key frame follow it directly; no codec lets
more than 32 of them wait."""

LEAP_FRAMES = 1.5
"""Between open groups of pictures, more of the usual time between frames is a joint."""

JOIN_SECONDS = 0.5
"""Where times leap by more, a transport stream is joined to another."""


class CodedPacket(NamedTuple):
    """A packet that is not empty, in the order of the file."""

    time: int | None
    """Presentation time, in the stream's own unit."""
    is_key: bool
    is_cut: bool = False
    """Left out by an edit list."""
    is_hidden: bool = False
    """Of a picture that others refer to and nobody sees."""
    is_clean: bool = True
    """Of a key frame: nothing after it refers to frames before it."""
    is_damaged: bool = False
    """In the opinion of the container."""
    is_tiny: bool = False
    """As small as a packet that stands for no frame."""

    @property
    def is_shown(self) -> bool:
        """Whether it shows a frame, if the decoder can make one of it."""
        return not (self.is_cut or self.is_hidden)


class Clues(NamedTuple):
    """What else tells whether packets are frames."""

    formats: Sequence[str]
    """FFmpeg's names of the container."""
    reorders: bool
    """Whether frames are shown in another order than they are stored in."""
    first_time: int | None
    """Presentation time of the first frame that comes out of the decoder."""
    is_interlaced: bool
    """Then the two halves of a frame may be a packet each."""


def hides_picture(codec: str, packet: "Packet[Any]") -> bool:
    """Whether a packet holds a picture that is never shown, by the first byte of its header."""
    if codec == "vp8":
        return not memoryview(packet)[0] & 0b0001_0000
    if codec == "vp9":
        data = memoryview(packet)
        first, last = data[0], data[-1]
        # Several pictures in a packet are followed by an index; one of them is shown.
        if first >> 6 != 0b10 or last >> 5 == 0b110:
            return False
        if first & 0b0011_0000 == 0b0011_0000:  # profile 3 has a reserved bit in between
            return not first & 0b0000_0101
        return not first & 0b0000_1010
    return False


def is_tiny(codec: str, packet: "Packet[Any]") -> bool:
    """Whether a packet may be one of MPEG-4 that stands for no frame."""
    return codec == "mpeg4" and packet.size <= EMPTY_PICTURE_BYTES


def shown_times(
    packets: Sequence[CodedPacket], clues: Clues, decode: Callable[[int], Times]
) -> Times:
    """The time of every frame, in the order in which they are shown.

    Args:
        packets: Of the whole file.
        clues: What else is known.
        decode: Given N, the times of the frames that come out of the first N packets.

    Returns:
        As many times as the file shows frames. Where they are distinct and rise, each tells its
        frame; otherwise frames can only be counted.
    """
    told = [packet.time for packet in packets if packet.is_shown]
    is_pieced = _is_pieced(packets)
    if not is_pieced and not _begins_in_doubt(packets, clues):
        return _sorted(told)
    length = len(packets) if is_pieced else _beginning(packets)
    begin, come = packets[:length], decode(length)
    if length == len(packets):
        return come
    if not _are_timed(clues):
        as_told = len(come) == sum(packet.is_shown for packet in begin)
        return told if as_told else decode(len(packets))
    times = _sorted(come + [packet.time for packet in packets[length:] if packet.is_shown])
    if rises(times) and _lacks_leading_alone(begin, come):
        return times
    return decode(len(packets))


def rises(times: Times) -> bool:
    """Whether every frame has a time, later than the one before."""
    return None not in times and all(one < two for one, two in pairwise(times))  # type: ignore[operator]


def decode_times(container: InputContainer, stream: VideoStream, num_packets: int) -> Times:
    """The times of the frames that come out of a file's first packets, the empty ones not counted.

    What the decoder refuses does not end the video, and shows no frame.
    """
    coded = (packet for packet in container.demux(stream) if packet.size)
    times = [
        frame.pts for packet in islice(coded, num_packets) for frame in decoded_if_accepted(packet)
    ]
    return times + [frame.pts for frame in stream.codec_context.decode(None)]


def decoded_if_accepted(packet: "Packet[VideoStream]") -> list[VideoFrame]:
    """The frames that come out on a packet; none if the decoder refuses it."""
    try:
        return packet.decode()
    except av.InvalidDataError:
        return []


def joined_there(packets: Sequence[CodedPacket], place: int, *, unit: Fraction) -> bool:
    """Whether a mark of damage stands where one transport stream ends and another begins.

    The last packet but one is marked then, however sound it is: the counters of the two disagree.

    Args:
        packets: Of the whole file.
        place: Of the marked one.
        unit: Of their times, in seconds.
    """
    if place + 2 >= len(packets):
        return False
    marked, begin = packets[place], packets[place + 2]
    if not begin.is_key or begin.time is None or marked.time is None:
        return False
    return not 0 <= (begin.time - marked.time) * unit < JOIN_SECONDS


def _are_timed(clues: Clues) -> bool:
    # AVI stores no presentation times; those FFmpeg makes up do not survive B-frames.
    return "avi" not in clues.formats


def _is_pieced(packets: Sequence[CodedPacket]) -> bool:
    """Whether only the decoder can tell, of every packet."""
    if any(packet.is_tiny or packet.is_damaged for packet in packets):
        return True
    # A key frame is shown after all that are stored before it, and its leading pictures are too.
    ends, latest, is_open = [float("-inf")], float("-inf"), False
    key_time = latest
    for packet in packets:
        if packet.time is None or packet.is_hidden:
            continue
        if packet.is_key:
            ends.append(latest)
            key_time = packet.time
        if packet.time <= ends[-1]:
            return True
        is_open |= packet.time < key_time
        latest = max(latest, packet.time)
    return is_open and _leaps(packets, ends[2:])


def _leaps(packets: Sequence[CodedPacket], ends: Sequence[float]) -> bool:
    """Whether time passes without frames after groups of pictures: what follows lacks them."""
    times = sorted(packet.time for packet in packets if packet.time is not None)
    step = (times[-1] - times[0]) / (len(times) - 1)
    return any(times[bisect_right(times, end)] - end > LEAP_FRAMES * step for end in ends)


def _begins_in_doubt(packets: Sequence[CodedPacket], clues: Clues) -> bool:
    """Whether what comes of the first pictures is uncertain."""
    first = packets[0]
    if not first.is_key or not first.is_clean or clues.is_interlaced:
        return True
    if STREAMED.intersection(clues.formats):
        return True
    if not _are_timed(clues):
        return clues.reorders
    told = _sorted([packet.time for packet in packets if packet.is_shown])
    return not rises(told) or clues.first_time != told[0] or _has_leading(packets)


def _has_leading(packets: Sequence[CodedPacket]) -> bool:
    """Whether the first group has pictures that are stored after its key frame and shown before."""
    key = packets[0].time
    return key is None or any(
        packet.is_shown and packet.time is not None and packet.time < key
        for packet in packets[: _beginning(packets)]
    )


def _beginning(packets: Sequence[CodedPacket]) -> int:
    """How many packets tell what the decoder lacks: the first group of pictures or its start."""
    keys = [place for place, packet in enumerate(packets) if packet.is_key]
    if not keys:
        return len(packets)
    return min(keys[1] if len(keys) > 1 else len(packets), keys[0] + MOST_LEADING)


def _lacks_leading_alone(group: Sequence[CodedPacket], come: Times) -> bool:
    """Whether the decoder lacks only frames that are shown before the first key frame."""
    key = next((packet.time for packet in group if packet.is_key), None)
    shown = {packet.time for packet in group if packet.is_shown}
    if key is None or not rises(come) or not shown.issuperset(come):
        return False
    # A picture without a time is one that a muxer would have had to put before zero.
    return all(time is None or time < key for time in shown.difference(come))


def _sorted(times: Times) -> Times:
    """In the order shown, where every frame has a time."""
    known = [time for time in times if time is not None]
    return [*sorted(known)] if len(known) == len(times) else times
