"""`reskd train-teacher`, `train-student`, `extract-features` and `demo`."""

from pathlib import Path
from typing import Literal

import click

from reskd.common.cli.options import (
    command_line,
    device_option,
    experiment_argument,
    json_option,
    max_bad_option,
    override_option,
)

folder_path = click.Path(path_type=Path, file_okay=False)
fresh_option = click.option("--fresh", is_flag=True, help="Forget an earlier run in this folder.")
validate_option = click.option(
    "--validate/--no-validate",
    default=True,
    show_default=True,
    help="Measure on data.val_split every evaluation.interval epochs and at the end.",
)
compile_option = click.option(
    "--compile", "compiled", is_flag=True, help="Let torch.compile make the network faster."
)
plan_option = click.option(
    "--plan", "plan_only", is_flag=True, help="Print counts and arithmetic; train nothing."
)


@click.command("train-teacher")
@experiment_argument
@override_option
@click.option("--run", type=folder_path, help="Folder to write; default: teacher.checkpoint.")
@max_bad_option
@device_option
@fresh_option
@validate_option
@compile_option
@plan_option
@json_option
def train_teacher(
    experiment: str,
    overrides: tuple[str, ...],
    run: Path | None,
    max_bad: float | None,
    device: str,
    fresh: bool,
    validate: bool,
    compiled: bool,
    plan_only: bool,
    as_json: bool,
) -> None:
    """Train the teacher of EXPERIMENT on big frames, from labels alone.

    Interrupted and called again, it goes on with the very step it had come to. Several processes:
    torchrun --nproc-per-node N --no-python -- reskd train-... (mind the `--`).
    """
    from reskd.common.console import emit
    from reskd.common.experiment.load import load_experiment
    from reskd.student_train.distributed import joined_processes
    from reskd.student_train.train import plan, runs
    from reskd.student_train.train.run_training import summary_text

    resolved = load_experiment(experiment, [*overrides, *_compiled("teacher", compiled)])
    if plan_only:
        planned = plan.plan_training(resolved, "teacher")
        emit(planned, as_json=as_json, text=plan.plan_text(planned))
        return
    with joined_processes(device) as processes:
        summary = runs.train_teacher(
            resolved,
            (run or resolved.teacher.checkpoint).absolute(),
            processes=processes,
            max_bad=resolved.data.max_bad if max_bad is None else max_bad,
            fresh=fresh,
            validate=validate,
            command=command_line(click.get_current_context()),
        )
        if processes.is_first:
            emit(summary, as_json=as_json, text=summary_text(summary))


@click.command("train-student")
@experiment_argument
@override_option
@click.option("--cache", type=folder_path, help="Teacher cache to learn from.")
@click.option("--run", type=folder_path, help="Folder of the run to write.")
@click.option(
    "--teacher",
    type=click.Choice(["cached", "live"]),
    default="cached",
    show_default=True,
    help="Read the teacher's answers from --cache, or compute them in every step.",
)
@click.option("--no-distill", is_flag=True, help="From labels alone, all else equal.")
@click.option("--allow-incomplete", is_flag=True, help="Use the finished units of a cache.")
@max_bad_option
@device_option
@fresh_option
@validate_option
@compile_option
@plan_option
@json_option
def train_student(
    experiment: str,
    overrides: tuple[str, ...],
    cache: Path | None,
    run: Path | None,
    teacher: Literal["cached", "live"],
    no_distill: bool,
    allow_incomplete: bool,
    max_bad: float | None,
    device: str,
    fresh: bool,
    validate: bool,
    compiled: bool,
    plan_only: bool,
    as_json: bool,
) -> None:
    """Train the student of EXPERIMENT on small frames, from the teacher's stored answers.

    With --no-distill it learns from labels alone: on the stored frames if --cache is given, else on
    freshly decoded views. With --teacher live no cache is needed: the teacher sees the same views,
    decoded anew, in every step, which is the control for what stored answers are worth.
    Interrupted and called again, it goes on with the very step it had come to. Several processes:
    torchrun --nproc-per-node N --no-python -- reskd train-... (mind the `--`).
    """
    if teacher == "live" and no_distill:
        raise click.UsageError(
            "--teacher live computes answers and --no-distill ignores them; choose one of the two."
        )
    from reskd.common.console import emit
    from reskd.common.experiment.load import load_experiment
    from reskd.student_train.distributed import joined_processes
    from reskd.student_train.train import plan, runs
    from reskd.student_train.train.run_training import summary_text

    resolved = load_experiment(experiment, [*overrides, *_compiled("student", compiled)])
    if plan_only:
        planned = plan.plan_training(resolved, "student", teacher=teacher)
        emit(planned, as_json=as_json, text=plan.plan_text(planned))
        return
    if run is None:
        raise click.UsageError("Name the folder to write: --run DIR (or ask for --plan alone).")
    with joined_processes(device) as processes:
        summary = runs.train_student(
            resolved,
            run.absolute(),
            cache=cache,
            teacher=teacher,
            distill=not no_distill,
            processes=processes,
            max_bad=resolved.data.max_bad if max_bad is None else max_bad,
            fresh=fresh,
            allow_incomplete=allow_incomplete,
            validate=validate,
            command=command_line(click.get_current_context()),
        )
        if processes.is_first:
            emit(summary, as_json=as_json, text=summary_text(summary))


def _compiled(role: str, compiled: bool) -> list[str]:
    return [f"{role}.training.compile=true"] if compiled else []


@click.command("extract-features")
@click.argument("run", metavar="DIR", type=folder_path)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("out", metavar="OUT.npz", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--size",
    type=click.IntRange(1),
    help="Side of its frames in pixels; default: the checkpoint's.",
)
@click.option(
    "--frames",
    "num_frames",
    type=click.IntRange(1),
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
    of normalised float32 clips (B, T, 3, H, W). Videos are read as `evaluate` reads them: frames
    at segment centres, centre crop. Those that cannot be read are left out and listed; OUT.npz is
    written from the others, and the command ends with exit code 5.
    """
    from reskd.common.console import emit
    from reskd.common.devices import choose_device
    from reskd.common.errors import StoppedShortError
    from reskd.student_train.deploy import extract_features as extraction

    result = extraction.extract_features(
        run,
        source,
        out,
        size=size,
        num_frames=num_frames,
        batch_size=batch_size,
        device=choose_device(device),
    )
    emit(result, as_json=as_json, text=extraction.extraction_text(result))
    if result["failed"]:
        raise StoppedShortError(
            f"{result['failed']} videos could not be read and are not in {out}. Mend or remove "
            "them and run the same command again."
        )


@click.command("demo")
@click.option(
    "--out", type=folder_path, default="reskd-demo", show_default=True, help="Folder to write."
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Repetitions.")
@json_option
def demo(out: Path, seeds: int, as_json: bool) -> None:
    """Run the whole pipeline on generated videos: minutes on a CPU, every command printed."""
    from reskd.common.console import emit
    from reskd.student_train.demo.pipeline import demo_text, run_demo

    result = run_demo(out.absolute(), seeds=range(seeds))
    emit(result, as_json=as_json, text=demo_text(result))
