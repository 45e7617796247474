"""Whether videos can be read: each decoder reads one that is made for it."""

import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np

from reskd.common.doctor.symptom import Symptom
from reskd.common.errors import ReskdError
from reskd.common.video.reader import Decoder

FRAMES: Final = 12
_PACKAGES: Final[dict[Decoder, str]] = {"pyav": "av", "decord": "decord"}


def decoders() -> Iterator[Symptom]:
    """PyAV, which is needed for everything but stored frames, and decord, which is faster often."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            video = _made_up(Path(folder) / "video.mp4")
        except ImportError:
            yield Symptom("pyav", "missing", "pip install av; without it only stored frames work")
            return
        except (OSError, ValueError) as error:
            yield Symptom("pyav", f"cannot encode H.264: {error}", "pip install --upgrade av")
            return
        for decoder in _PACKAGES:
            yield _tried(decoder, video)


def _made_up(path: Path) -> Path:
    """A second of H.264."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            picture = np.full((48, 64, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _tried(decoder: Decoder, video: Path) -> Symptom:
    from reskd.common.video.video_file import open_video

    package = _PACKAGES[decoder]
    try:
        name = f"{decoder} {version(package)}"
    except PackageNotFoundError:
        found = "missing; PyAV reads everything, often more slowly"
        return Symptom(decoder, found, None if decoder == "decord" else f"pip install {package}")
    try:
        with open_video(video, decoder) as opened:
            frames = opened.frames(list(range(FRAMES)))
    except ReskdError as error:
        return Symptom(name, f"does not read a sound video: {error}", f"reinstall {package}")
    grey = frames.reshape(FRAMES, -1).mean(1)
    if len(frames) != FRAMES or np.abs(grey - 20 * np.arange(FRAMES)).max() > 8:
        return Symptom(name, "reads other pictures than were written", f"reinstall {package}")
    return Symptom(name, "reads H.264")
