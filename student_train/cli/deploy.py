"""`reskd predict`, `export` and `benchmark`: what comes after training."""

from pathlib import Path
from typing import Literal

import click

from reskd.common.cli.options import device_option, json_option

folder_path = click.Path(path_type=Path, file_okay=False)
file_path = click.Path(path_type=Path, dir_okay=False)
seconds = click.FloatRange(0, min_open=True)


@click.command("predict")
@click.argument("run", metavar="RUN", type=folder_path)
@click.argument(
    "videos", metavar="VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--top", "k", type=click.IntRange(1), default=5, show_default=True, help="Classes to name."
)
@click.option(
    "--clips",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Clips per video or window, spread over it; their probabilities are averaged.",
)
@click.option("--window", type=seconds, metavar="SECONDS", help="Answer windows of this length.")
@click.option(
    "--step", type=seconds, metavar="SECONDS", help="From window to window; default: they touch."
)
@device_option
@json_option
def predict(
    run: Path,
    videos: tuple[Path, ...],
    k: int,
    clips: int,
    window: float | None,
    step: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Name the most probable classes of each VIDEO, as the network in RUN sees it.

    Videos are read as `evaluate` reads them: frames at segment centres, centre crop. With --window
    a long video is answered stretch by stretch, decoded once and never as a whole in memory, with
    times; the answer for the video is the mean. Videos that cannot be read are told at the end,
    and the command ends with exit code 5.
    """
    if step is not None and window is None:
        raise click.UsageError("--step is the distance of windows; give their length: --window.")
    from reskd.common.console import emit
    from reskd.common.errors import StoppedShortError
    from reskd.student_train.deploy import predict as prediction

    result = prediction.predict(
        run,
        videos,
        k=k,
        clips=clips,
        window_seconds=window,
        step_seconds=step,
        device=device,
    )
    emit(result, as_json=as_json, text=prediction.prediction_text(result))
    if result["failed"]:
        raise StoppedShortError(
            f"{result['failed']} of {len(videos)} videos could not be read to their end, for the "
            "reasons above. Mend or remove them; the others are answered."
        )


@click.command("export")
@click.argument("run", metavar="RUN", type=folder_path)
@click.argument("out", metavar="OUT", type=file_path)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["pt2", "onnx"]),
    help="torch.export or ONNX (extra `export`); default: by the suffix of OUT.",
)
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Compare the numbers first."
)
@json_option
def export(
    run: Path, out: Path, kind: Literal["pt2", "onnx"] | None, check: bool, as_json: bool
) -> None:
    """Write the network in RUN to OUT for other programs, for any number of clips.

    It takes normalised float32 clips (B, T, 3, H, W) and gives class scores (B, K). How clips are
    made of a video, and the names of the classes, are in the file. Its answers are compared with
    the network's on random clips before it gets its name; if they differ nothing is written, and
    the command ends with exit code 3.
    """
    from reskd.common.console import emit
    from reskd.student_train.deploy import export as exporting

    if kind is None:
        if out.suffix not in (".pt2", ".onnx"):
            raise click.UsageError(f"OUT ends in .pt2 or .onnx, or give --format; got {out}")
        kind = "pt2" if out.suffix == ".pt2" else "onnx"
    result = exporting.export(run, out, format=kind, check=check)
    emit(result, as_json=as_json, text=exporting.export_text(result))


@click.command("benchmark")
@click.argument("source", metavar="RUN|NAME")
@click.option(
    "--size", type=click.IntRange(1), help="Side of its frames in pixels; default: its own."
)
@click.option(
    "--frames", "num_frames", type=click.IntRange(1), help="Frames per clip; default: its own."
)
@click.option(
    "--batch",
    "batch_size",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Clips per forward pass.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Number type of the layers (autocast).",
)
@click.option(
    "--passes", type=click.IntRange(1), default=30, show_default=True, help="Timed forward passes."
)
@click.option(
    "--decode", "index_path", metavar="INDEX", type=file_path, help="Also read these videos."
)
@click.option(
    "--videos",
    "max_videos",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Videos of INDEX that are read, the first ones.",
)
@device_option
@json_option
def benchmark(
    source: str,
    size: int | None,
    num_frames: int | None,
    batch_size: int,
    precision: Literal["float32", "bfloat16", "float16"],
    passes: int,
    index_path: Path | None,
    max_videos: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure cost and speed of the network in RUN, or of NAME with random weights.

    NAME is one of `reskd models list`. Parameters and MACs are counted, latency, throughput and
    memory measured on this machine; with --decode also reading clips from videos, as `evaluate`
    reads them in one thread, and reading and answering them one after the other.
    """
    from reskd.common.console import emit
    from reskd.student_train.deploy import benchmark as measuring

    result = measuring.benchmark(
        source,
        measuring.BenchmarkOptions(
            size=size,
            num_frames=num_frames,
            batch_size=batch_size,
            precision=precision,
            passes=passes,
            device=device,
        ),
        index_path=index_path,
        max_videos=max_videos,
    )
    emit(result, as_json=as_json, text=measuring.benchmark_text(result))
