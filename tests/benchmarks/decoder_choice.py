"""Which decoder is the faster for how many of a video's frames, and what choosing by that saves.

    python -m tests.benchmarks.decoder_choice --json

Generated H.264 videos of 340x256 at 25 frames per second, 10 and 60 s, with a key frame every 12,
25 and 250 frames; random frames of them, opened and inspected before. Contenders take turns:

- decord, pyav: the one alone.
- auto: chosen by the share of the frames that is wanted.

`decord_over_auto` is the time of decord over that of auto, as `decord_over_pyav` is over PyAV's;
`best_over_auto` is that of the faster of the two, below 1 where the choice is the wrong one. There
is no target: between a thirtieth and a tenth of the frames it depends on the key frames.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.random import Generator

from reskd.common.console import emit, in_lines
from reskd.common.video.video_file import AutoReader, DecordReader, PyAVReader
from tests.benchmarks.decode_once import FPS, moving_texture
from tests.benchmarks.timing import interleaved, load, ratio
from tests.video_files import write_video

SECONDS = (10, 60)
KEY_FRAMES = (12, 25, 250)
SHARES = (1 / 60, 1 / 30, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
ROUNDS = 5


def compare(
    path: Path, *, num_frames: int, shares: Sequence[float], rounds: int
) -> dict[str, dict[str, float]]:
    """Read random frames of a video with every contender; per share the ratios of their times."""
    decord, pyav = DecordReader(path), PyAVReader(path)
    generator = np.random.default_rng(0)
    result: dict[str, dict[str, float]] = {}
    for share in shares:
        count = max(1, round(num_frames * share))
        auto = AutoReader(path, num_wanted=count)
        seconds = interleaved(
            {"decord": decord.frames, "pyav": pyav.frames, "auto": auto.frames},
            partial(_some_frames, generator, num_frames, count),
            rounds=rounds,
        )
        over_auto = {name: ratio(seconds, name, "auto") for name in ("decord", "pyav")}
        result[f"{share:.3f}"] = {
            "decord_over_pyav": ratio(seconds, "decord", "pyav"),
            "decord_over_auto": over_auto["decord"],
            "best_over_auto": min(over_auto.values()),
            "decord_ms": float(np.median(seconds["decord"])) * 1e3,
            "pyav_ms": float(np.median(seconds["pyav"])) * 1e3,
        }
    return result


def _some_frames(generator: Generator, num_frames: int, count: int) -> list[int]:
    return sorted(generator.permutation(num_frames)[:count].tolist())


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Compare both decoders and the choice between them."""
    before, result = load(), {}
    with TemporaryDirectory(prefix="bench-decoders-") as folder:
        for seconds in SECONDS:
            frames = moving_texture(0, seconds * FPS)
            for distance in KEY_FRAMES:
                name = f"{seconds} s, a key frame every {distance}"
                path = Path(folder) / f"{seconds}_{distance}.mp4"
                write_video(path, frames, fps=FPS, g=str(distance), sc_threshold="0")
                result[name] = compare(path, num_frames=len(frames), shares=SHARES, rounds=ROUNDS)
    report: dict[str, Any] = {"videos": result, "load": [before, load()]}
    lines = [
        f"{name}, share {share}: decord over pyav {one['decord_over_pyav']:.2f}, over auto "
        f"{one['decord_over_auto']:.2f}"
        for name, shares in result.items()
        for share, one in shares.items()
    ]
    emit(report, as_json=as_json, text=in_lines(*lines))


if __name__ == "__main__":
    main()
