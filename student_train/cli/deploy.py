"""`reskd extract-features`, `predict`, `export` and `benchmark`: what comes after training."""

from pathlib import Path
from typing import Literal

import click

from reskd.common.cli.options import (
    device_option,
    file_path,
    json_option,
    run_path,
    trust_code_option,
)

seconds = click.FloatRange(0, min_open=True)


@click.command("extract-features")
@click.argument("run", metavar="DIR", type=run_path)
@click.argument("source", metavar="INPUT", type=file_path)
@click.argument("out", metavar="OUT.npz", type=file_path)
@click.option(
    "--size",
    type=click.IntRange(1, 8192),
    help="Side of its frames in pixels; default: the checkpoint's.",
)
@click.option(
    "--frames",
    "num_frames",
    type=click.IntRange(1, 10000),
    help="Frames per clip; default: those of its experiment, else 8 for tsn, tsm and slowonly, 32 "
    "for swin3d, 16 for torchvision.",
)
@click.option(
    "--batch",
    "batch_size",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Clips per forward pass.",
)
@trust_code_option
@device_option
@json_option
def extract_features(
    run: Path,
    source: Path,
    out: Path,
    size: int | None,
    num_frames: int | None,
    batch_size: int,
    device: str,
    as_json: bool,
) -> None:
    """Write feature maps and class scores of the network in DIR to OUT.npz.

    INPUT is a video, a list of videos (.txt, one per line), a video index (.jsonl) or a .npy file
    of clips (B, T, 3, H, W), uint8 RGB or float32 normalised with ImageNet's mean and std (they
    become the network's own). Videos are read as `evaluate` reads them: frames at segment centres,
    centre crop. Those that cannot be read are left out and listed; OUT.npz is written from the
    others, and the command ends with exit code 5.
    """
    from reskd.common.console import emit
    from reskd.common.devices import choose_device
    from reskd.common.errors import StoppedShortError
    from reskd.student_train.deploy.extract_features import extract_features as extract
    from reskd.student_train.deploy.extract_features import extraction_text

    result = extract(
        run,
        source,
        out,
        size=size,
        num_frames=num_frames,
        batch_size=batch_size,
        device=choose_device(device),
    )
    emit(result, as_json=as_json, text=extraction_text(result))
    if result["failed"]:
        raise StoppedShortError(
            f"{result['failed']} videos could not be read and are not in {out}. Fix or remove "
            "them and run the same command again."
        )


@click.command("predict")
@click.argument("run", metavar="RUN", type=run_path)
@click.argument(
    "videos", metavar="VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--top", "k", type=click.IntRange(1), default=5, show_default=True, help="Classes to name."
)
@click.option(
    "--clips",
    type=click.IntRange(1, 10000),
    default=1,
    show_default=True,
    help="Clips per video or window, spread over it; their probabilities are averaged.",
)
@click.option("--window", type=seconds, metavar="SECONDS", help="Predict windows of this length.")
@click.option(
    "--step", type=seconds, metavar="SECONDS", help="From window to window; default: they touch."
)
@trust_code_option
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

    VIDEO is a file, a folder of videos, a list of them (.txt, one per line), or a folder of
    numbered images, which is one video.
    Videos are read as `evaluate` reads them: frames at segment centres, centre crop. With --window
    a long video is predicted stretch by stretch, decoded once and never as a whole in memory, with
    times; the prediction for the video is the mean. Videos that cannot be read are listed at the
    end, and the command ends with exit code 5.
    """
    if step is not None and window is None:
        raise click.UsageError("--step is the distance of windows; give their length: --window.")
    from reskd.common.console import emit
    from reskd.common.errors import StoppedShortError
    from reskd.student_train.deploy.predict import predict as predict_videos
    from reskd.student_train.deploy.predict import prediction_text

    result = predict_videos(
        run,
        videos,
        k=k,
        clips=clips,
        window_seconds=window,
        step_seconds=step,
        device=device,
    )
    emit(result, as_json=as_json, text=prediction_text(result))
    if result["failed"]:
        raise StoppedShortError(
            f"{result['failed']} of {result['named']} videos could not be read to their end, for "
            "the reasons above. Fix or remove them; the others are predicted."
        )


@click.command("export")
@click.argument("run", metavar="RUN", type=run_path)
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
@trust_code_option
@json_option
def export(
    run: Path, out: Path, kind: Literal["pt2", "onnx"] | None, check: bool, as_json: bool
) -> None:
    """Write the network in RUN to OUT for other programs, for any number of clips.

    It takes normalised float32 clips (B, T, 3, H, W) and gives class scores (B, K). How clips are
    made of a video, mean and std included, and the names of the classes are in the file. Its class
    scores are compared with the network's on random clips before it gets its name; if they differ
    nothing is written, and the command ends with exit code 3.
    """
    from reskd.common.console import emit
    from reskd.student_train.deploy.export import export as export_network
    from reskd.student_train.deploy.export import export_text

    if kind is None:
        if out.suffix not in (".pt2", ".onnx"):
            raise click.UsageError(f"OUT ends in .pt2 or .onnx, or give --format; got {out}")
        kind = "pt2" if out.suffix == ".pt2" else "onnx"
    result = export_network(run, out, format=kind, check=check)
    emit(result, as_json=as_json, text=export_text(result))


@click.command("model")
@click.argument("source", metavar="RUN|NAME")
@click.option(
    "--size", type=click.IntRange(1, 8192), help="Side of its frames in pixels; default: its own."
)
@click.option(
    "--frames",
    "num_frames",
    type=click.IntRange(1, 10000),
    help="Frames per clip; default: its own.",
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
@trust_code_option
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
    reads them in one thread, and reading and running them one after the other.
    """
    from reskd.common.console import emit
    from reskd.student_train.deploy.benchmark import BenchmarkOptions, benchmark_text
    from reskd.student_train.deploy.benchmark import benchmark as measure

    result = measure(
        source,
        BenchmarkOptions(
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
    emit(result, as_json=as_json, text=benchmark_text(result))
