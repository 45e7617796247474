"""Videos cut and changed without decoding, as `ffmpeg -c copy` does it."""

import os
from collections.abc import Callable
from pathlib import Path

import av


def key_places(path: Path) -> list[int]:
    """Which of a video's packets are key frames."""
    with av.open(os.fspath(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        return [place for place, packet in enumerate(packets) if packet.is_keyframe]


def num_packets(path: Path) -> int:
    """Packets of a video that are not empty."""
    with av.open(os.fspath(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))


def copy_packets(
    source: Path,
    target: Path,
    *,
    first: int = 0,
    shift: int | None = 0,
    change: Callable[[int, bytes], bytes] = lambda _, content: content,
) -> Path:
    """Copy the packets of a video from one of them on; the suffix chooses the container.

    Args:
        source: The video.
        target: File to write.
        first: Packets left out in front.
        shift: Added to all times, in frames; None: the first packet is decoded at zero.
        change: Given the number of a packet and its content, what is written instead.
    """
    with av.open(os.fspath(source)) as taken, av.open(os.fspath(target), "w") as made:
        stream = taken.streams.video[0]
        copied = made.add_stream_from_template(stream)
        packets = [packet for packet in taken.demux(stream) if packet.size][first:]
        assert stream.average_rate is not None
        assert stream.time_base is not None
        frame = round(1 / (stream.average_rate * stream.time_base))
        assert packets[0].dts is not None
        moved = -packets[0].dts if shift is None else shift * frame
        for number, packet in enumerate(packets):
            assert packet.pts is not None
            assert packet.dts is not None
            written = av.Packet(change(number, bytes(packet)))
            written.pts, written.dts = packet.pts + moved, packet.dts + moved
            written.time_base, written.duration = stream.time_base, frame
            written.is_keyframe, written.stream = packet.is_keyframe, copied
            made.mux(written)
    return target
