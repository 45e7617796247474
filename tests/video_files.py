"""Small real video files, made on the spot, and where the odd ones from the wild may lie."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tests import REPOSITORY

Frames = NDArray[np.uint8]


def write_video(
    path: Path,
    frames_NHWC: Frames,
    fps: int = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    **options: str,
) -> Path:
    """Encode RGB frames; the suffix of the path chooses the container.

    Args:
        path: File to write; its folder is made.
        frames_NHWC: uint8; height and width even, unless pix_fmt is a 4:4:4 one.
        fps: Frames per second.
        codec: FFmpeg's name of the encoder. `libx264rgb` with pix_fmt `rgb24` and qp="0" is
            lossless.
        pix_fmt: What the pixels are stored as.
        options: Options of the encoder, such as g="12" for the distance of key frames.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The table of frames in front: a file that is cut off still promises all of them.
    movflags = {"movflags": "faststart"} if path.suffix in {".mp4", ".mov"} else {}
    with av.open(os.fspath(path), "w", options=movflags) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        assert isinstance(stream, VideoStream), f"{codec} encodes no pictures"
        stream.height, stream.width = frames_NHWC.shape[1:3]
        stream.pix_fmt = pix_fmt
        for picture in frames_NHWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A tenth of a second of silence and no picture."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 1600), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return path


def numbered_frames(num_frames: int, height: int = 80, width: int = 96) -> Frames:
    """Frames that tell their number (see frame_numbers) and which way is up.

    Frame i is grey level 6 i, so there are at most 40; its upper left quarter is black.
    """
    levels = np.arange(num_frames, dtype=np.uint8) * 6
    frames = np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()
    frames[:, : height // 2, : width // 2] = 0
    return frames


def frame_numbers(frames_NHWC: Frames) -> list[int]:
    """Numbers of decoded numbered_frames, from their lower right quarter."""
    _, height, width, _ = frames_NHWC.shape
    levels = frames_NHWC[:, height // 2 + 8 :, width // 2 + 8 :].mean(axis=(1, 2, 3))
    return [round(float(level) / 6) for level in levels]


def shared_data() -> Path:
    """The folder of trial videos: $RESKD_SHARED_DATA, or beside the repository; else skip."""
    beside = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("RESKD_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no trial videos in {folder}; set RESKD_SHARED_DATA to use some")
    return folder
