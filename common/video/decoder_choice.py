"""Who decodes first where decord and PyAV are known to make the same pixels.

PyAV decodes all frames up to the last one asked for, decord those it needs from the key frame
before each. So decord is the faster for few frames and PyAV for many. Measured on 10 and 60 s of
340x256 at 25 frames per second, one thread, time of decord over PyAV's (`python -m
tests.benchmarks.decoder_choice --json`), by the share of the frames that is asked for:

    a key frame every    1/60   1/30   1/16   1/8   1/4   1/2
    12 frames, 10 s      0.33   0.59   0.94   1.27  1.50  1.37
    12 frames, 60 s      0.35   0.68   0.85   2.06  1.82  1.46
    25 frames, 10 s      0.41   0.64   0.83   1.20  1.25  1.42
    25 frames, 60 s      0.37   0.75   1.04   1.44  1.52  1.66
    250 frames, 10 s     0.84   1.05   1.26   1.14  1.07  1.33
    250 frames, 60 s     0.94   1.04   1.15   1.23  1.65  1.45

The share is that of all views of a video, however few are asked for at once.

Where the pixels are the same: 8-bit 4:2:0, even sides, progressive, whatever the colours, the codec
and the container (741 clips of four sources and the table of the tests). Where they are not:
interlaced video (PyAV's converter takes the fields one by one; by up to 179 of 255 levels on
noise), odd sides of 4:2:0, 4:1:0 and 4:4:0, more than 8 bits. Other 8-bit formats seem equal and
are rare.

In damaged files the two conceal in their own ways, and decord alone may differ from itself. H.264
finds what is wrong with its data: where it is told to give up at the first error, one in 2900 files
of which one to five bytes were changed came out otherwise than with decord first, and ten as decord
does by chance, which refuses or not from call to call. MPEG-4, VP8, VP9 and motion JPEG came out
otherwise in 1 to 15 of 100 (HEVC in less), so they are decoded as they ever were.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from av.video.frame import VideoFrame

ALIKE_CODEC: Final = "h264"
ALIKE_FORMATS: Final = frozenset({"yuv420p", "yuvj420p"})
"""FFmpeg's names of how pixels are coded; the second has the full range of levels."""

STRICT_CODEC: Final[Mapping[str, str]] = {"err_detect": "explode"}
"""Makes the codec refuse what it would conceal."""

DENSE_SHARE: Final = 0.1
"""From this share of a video's frames on PyAV is the faster."""


class Picture(NamedTuple):
    """How the pixels of a frame are coded."""

    format: str
    height: int
    width: int
    colorspace: int
    color_range: int


def picture_alike(frame: VideoFrame) -> Picture | None:
    """How a frame is coded, if both decoders make the same pixels of it; None if they may not."""
    if frame.format.name not in ALIKE_FORMATS or frame.interlaced_frame:
        return None
    if frame.height % 2 or frame.width % 2:
        return None
    return Picture(
        frame.format.name,
        frame.height,
        frame.width,
        int(frame.colorspace),
        int(frame.color_range),
    )


def is_dense(num_wanted: int, num_frames: int) -> bool:
    """Whether so many of a video's frames are wanted that decoding all of them is faster."""
    return num_wanted >= DENSE_SHARE * num_frames
