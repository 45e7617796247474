"""How fast 16 random frames of a clip come out of kept frames, against decoding the video.

    python -m tests.benchmarks.frame_access --json

Generated H.264 videos of 10 s at 25 frames per second, 340x256, and every frame of them kept at
that size. A clip is 16 random frames of a random video, in order; opening it counts.

- jpg, png: the packed store, every image's crc32c checked; jpg at quality 90.
- folders: the same jpg images as plain files.
- decord, pyav: the reader of the video itself, with all that it checks when it opens a file.
- decord_bare: decord alone, opened and asked, nothing checked.

Contenders take turns, page cache warm, one thread each. `A_over_B` is the time of A over that of B.
Bytes are those of a clip's images, and for the video of the file's share of 16 frames. Target:
decord_over_jpg and pyav_over_jpg above 1.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from reskd.common.console import emit, in_lines
from reskd.common.dataset.frames.extract import Extraction, extract_frames
from reskd.common.dataset.frames.plan import FrameOptions, ImageFormat, StoreLayout
from reskd.common.dataset.frames.store import open_kept
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.experiment import DataSpec
from reskd.common.video.reader import Decoder
from reskd.common.video.video_file import open_video
from tests.benchmarks.decode_once import FPS, SECONDS, moving_texture
from tests.benchmarks.timing import interleaved, load, ratio
from tests.video_files import write_video

Clip = tuple[str, list[int]]
"""A video's id and frame numbers."""
Read = Callable[[str, Sequence[int]], NDArray[np.uint8]]

NUM_VIDEOS = 4
CLIP_FRAMES = 16
CLIPS = 4
ROUNDS = 9
RATIOS = {
    "decord_over_jpg": ("decord", "jpg"),
    "decord_bare_over_jpg": ("decord_bare", "jpg"),
    "pyav_over_jpg": ("pyav", "jpg"),
    "png_over_jpg": ("png", "jpg"),
    "folders_over_jpg": ("folders", "jpg"),
}


def write_videos(folder: Path, *, num_videos: int, num_frames: int) -> VideoIndex:
    """Videos and their index, which is not written."""
    entries = []
    for seed in range(num_videos):
        name = f"{seed}.mp4"
        write_video(folder / name, moving_texture(seed, num_frames), fps=FPS)
        entries.append(
            VideoEntry(
                id=name, path=name, labels=(0,), split="train", num_frames=num_frames, fps=FPS
            )
        )
    return VideoIndex(classes=("x",), root=folder, videos=tuple(entries))


def keep(index: VideoIndex, image_format: ImageFormat, layout: StoreLayout, out: Path) -> Read:
    """Keep every frame, and read them from there."""
    quality = 90 if image_format == "jpg" else None
    extract_frames(
        Extraction(
            index=index,
            data=DataSpec(index=out),
            split=None,
            options=FrameOptions(
                fps=None, image_format=image_format, quality=quality, short_side=None
            ),
            layout=layout,
            out=out,
            jobs=1,
            allow_unreadable=False,
        )
    )

    def read(video_id: str, numbers: Sequence[int]) -> NDArray[np.uint8]:
        with open_kept(out, video_id) as video:
            return video.frames(numbers)

    return read


def decode(index: VideoIndex, decoder: Decoder) -> Read:
    """Read from the videos, through our readers."""

    def read(video_id: str, numbers: Sequence[int]) -> NDArray[np.uint8]:
        with open_video(index.root / video_id, decoder) as video:
            return video.frames(numbers)

    return read


def decode_bare(index: VideoIndex) -> Read:
    """Read from the videos by decord alone."""
    import decord

    def read(video_id: str, numbers: Sequence[int]) -> NDArray[np.uint8]:
        reader = decord.VideoReader(str(index.root / video_id), num_threads=1)
        frames: NDArray[np.uint8] = reader.get_batch(list(numbers)).asnumpy()
        return frames

    return read


def compare(
    folder: Path, *, num_videos: int, num_frames: int, clips: int, rounds: int
) -> dict[str, float]:
    """Make the videos and the stores and read clips from all of them, in turns.

    Returns:
        The ratios, and per contender milliseconds and bytes per clip.
    """
    index = write_videos(folder, num_videos=num_videos, num_frames=num_frames)
    contenders = {
        "jpg": keep(index, "jpg", "packed", folder / "jpg.h5"),
        "png": keep(index, "png", "packed", folder / "png.h5"),
        "folders": keep(index, "jpg", "folders", folder / "folders"),
        "decord": decode(index, "decord"),
        "decord_bare": decode_bare(index),
        "pyav": decode(index, "pyav"),
    }
    require_alike(contenders, index)
    rng = np.random.default_rng(0)

    def draw() -> list[Clip]:
        frames = [rng.integers(num_frames, size=CLIP_FRAMES) for _ in range(clips)]
        videos = rng.integers(num_videos, size=clips)
        return [
            (index.videos[video].id, sorted(numbers.tolist()))
            for video, numbers in zip(videos, frames, strict=True)
        ]

    def turn(read: Read) -> Callable[[list[Clip]], None]:
        def run(drawn: list[Clip]) -> None:
            for video_id, numbers in drawn:
                read(video_id, numbers)

        return run

    seconds = interleaved({n: turn(read) for n, read in contenders.items()}, draw, rounds=rounds)
    share = CLIP_FRAMES / (num_videos * num_frames)
    sizes = {
        "jpg": (folder / "jpg.h5").stat().st_size,
        "png": (folder / "png.h5").stat().st_size,
        "video": sum(index.path_of(entry).stat().st_size for entry in index.videos),
    }
    return {
        **{name: ratio(seconds, *pair) for name, pair in RATIOS.items()},
        **{f"{name}_ms": median(taken) / clips * 1e3 for name, taken in seconds.items()},
        **{f"{name}_bytes": size * share for name, size in sizes.items()},
    }


def require_alike(contenders: dict[str, Read], index: VideoIndex) -> None:
    """All must give the same frames: jpg nearly, the others to the bit; all is warm afterwards."""
    for entry in index.videos:
        numbers = range(entry.num_frames)
        wanted = contenders["pyav"](entry.id, numbers)
        for name, read in contenders.items():
            difference = np.abs(read(entry.id, numbers).astype(np.int16) - wanted)
            # Blocks of random colours are hard for JPEG; the next frame is 32 grey levels away.
            limit = 8.0 if name in ("jpg", "folders") else 0.0
            assert difference.mean() <= limit, f"{name} reads other frames"


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Compare frames kept as images with decoding videos."""
    before = load()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="bench-frames-") as folder:
        figures = compare(
            Path(folder),
            num_videos=NUM_VIDEOS,
            num_frames=FPS * SECONDS,
            clips=CLIPS,
            rounds=ROUNDS,
        )
    result: dict[str, Any] = {**figures, "load": [before, load()]}
    lines = [f"{name}: {figures[name]:.2f}" for name in RATIOS]
    lines += [f"{n}: {figures[n] / 1e3:.0f} KB a clip" for n in figures if n.endswith("_bytes")]
    emit(result, as_json=as_json, text=in_lines(*lines))


if __name__ == "__main__":
    main()
