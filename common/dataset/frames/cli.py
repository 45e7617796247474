"""`reskd dataset extract-frames`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reskd.common.cli.options import json_option

if TYPE_CHECKING:
    from reskd.common.dataset.frames.plan import ImageFormat, StoreLayout
    from reskd.common.video.reader import Decoder


def _rate(context: click.Context, parameter: click.Parameter, text: str) -> float | None:
    if text == "native":
        return None
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0 < fps < float("inf"):
        raise click.BadParameter(f"{text!r} is neither a number above 0 nor `native`")
    return fps


@click.command("extract-frames")
@click.argument("index_file", metavar="INDEX", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="frames.h5, or a folder with --layout folders. Name it in data.frames to read it.",
)
@click.option(
    "--fps",
    default="4",
    show_default=True,
    callback=_rate,
    metavar="RATE",
    help="Frames kept per second of video, or `native` for all.",
)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["jpg", "png"]),
    default="jpg",
    show_default=True,
    help="png is lossless, takes five times the bytes and three times as long to read.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of jpg.  [default: 90]",
)
@click.option(
    "--short-side",
    type=click.IntRange(0),
    default=360,
    show_default=True,
    help="Make pictures smaller so that their shorter side is this; 0 keeps sizes.",
)
@click.option("--split", help="Extract this split alone; default: all of them.")
@click.option(
    "--layout",
    type=click.Choice(["packed", "folders"]),
    default="packed",
    show_default=True,
    help="folders: ID/img_00001.png, for exchange with other programs.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Videos decoded at a time, half a GB of memory each; default: one per processor.",
)
@click.option(
    "--decoder",
    type=click.Choice(["auto", "decord", "pyav"]),
    default="auto",
    show_default=True,
    help="Who decodes.",
)
@click.option(
    "--shard-frames",
    type=click.IntRange(1),
    help="Frames that one file should not exceed; default: 65536 of jpg, 16384 of png.",
)
@click.option(
    "--allow-unreadable",
    is_flag=True,
    help="Note unreadable videos in the store as failed ones, instead of stopping with exit 5.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Predict bytes and time; write nothing.")
@json_option
def extract_frames(
    index_file: Path,
    out: Path,
    fps: float | None,
    image_format: "ImageFormat",
    quality: int | None,
    short_side: int,
    split: str | None,
    layout: "StoreLayout",
    jobs: int | None,
    decoder: "Decoder",
    shard_frames: int | None,
    allow_unreadable: bool,
    plan_only: bool,
    as_json: bool,
) -> None:
    """Keep frames of the videos of INDEX as encoded images, to be read without decoding video.

    Interrupted and called again, it goes on with the missing videos. An experiment reads the store
    where data.frames names it.
    """
    import os
    from dataclasses import asdict

    from reskd.common.console import emit, in_lines
    from reskd.common.dataset.frames.estimate import forecast_frames
    from reskd.common.dataset.frames.extract import Extraction
    from reskd.common.dataset.frames.extract import extract_frames as run
    from reskd.common.dataset.frames.plan import FrameOptions
    from reskd.common.dataset.index import read_index
    from reskd.common.experiment import DataSpec

    if image_format == "png" and quality is not None:
        raise click.UsageError("--quality belongs to --format jpg; png is lossless")
    if layout == "folders" and shard_frames is not None:
        raise click.UsageError("--shard-frames belongs to --layout packed; a folder is a video")
    extraction = Extraction(
        index=read_index(index_file),
        data=DataSpec(index=index_file, decoder=decoder),
        split=split,
        options=FrameOptions(
            fps=fps,
            image_format=image_format,
            quality=(quality or 90) if image_format == "jpg" else None,
            short_side=short_side or None,
        ),
        layout=layout,
        out=out,
        jobs=jobs or os.cpu_count() or 1,
        allow_unreadable=allow_unreadable,
        shard_frames=shard_frames,
    )
    if plan_only:
        forecast = forecast_frames(extraction)
        emit(asdict(forecast), as_json=as_json, text=forecast.text)
        return
    result = run(extraction)
    failed = len(result["failures"])
    text = in_lines(
        f"{out}: {result['kept_frames']} frames of {result['videos']} videos, "
        f"{result['bytes'] / 1e6:.1f} MB in {result['files']} files"
        + (f"; {failed} videos are noted as unreadable" if failed else ""),
        f"set data.frames: {out} in an experiment to read it",
    )
    emit(result, as_json=as_json, text=text)
