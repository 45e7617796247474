"""`reskd train-teacher` and `train-student`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import click

from reskd.common.cli.options import (
    combined,
    command_line,
    device_option,
    experiment_argument,
    folder_path,
    json_option,
    max_bad_option,
    override_option,
)
from reskd.student_train.cli.options import clip_keeping, clips_options
from reskd.student_train.evaluate.clip_keeping import ClipKeeping

if TYPE_CHECKING:
    from reskd.common.experiment import Experiment

training_options = combined(
    max_bad_option,
    device_option,
    click.option(
        "--fresh", is_flag=True, help="Forget an earlier run of this recipe in the folder."
    ),
    click.option(
        "--replace",
        metavar="NAME",
        help="Name of the folder again: with --fresh, forget whatever run or network it holds.",
    ),
    click.option(
        "--resume-from",
        type=click.IntRange(0),
        metavar="STEP",
        help="Go on from the state saved after STEP steps, and forget later ones: once, where one "
        "is damaged.",
    ),
    click.option(
        "--validate/--no-validate",
        default=True,
        show_default=True,
        help="Measure on data.val_split every evaluation.interval epochs and at the end.",
    ),
    click.option(
        "--compile", "compiled", is_flag=True, help="Let torch.compile make the network faster."
    ),
    click.option(
        "--plan", "plan_only", is_flag=True, help="Print counts and arithmetic; train nothing."
    ),
    clips_options,
    json_option,
)


class TrainingOptions(TypedDict):
    """What `training_options` hand to a command."""

    max_bad: float | None
    device: str
    fresh: bool
    replace: str | None
    resume_from: int | None
    validate: bool
    compiled: bool
    plan_only: bool
    clips_store: Path | None
    clips_store_gb: float
    as_json: bool


class RunArguments(TypedDict):
    """What both kinds of training take, see student_train/train/runs.py."""

    max_bad: float
    fresh: bool
    replace: str | None
    resume_from: int | None
    validate: bool
    keeping: ClipKeeping | None
    command: Sequence[str]


@click.command("train-teacher")
@experiment_argument
@override_option
@click.option("--run", type=folder_path, help="Folder to write; default: teacher.checkpoint.")
@training_options
def train_teacher(
    experiment: str,
    overrides: tuple[str, ...],
    run: Path | None,
    **options: Unpack[TrainingOptions],
) -> None:
    """Train the teacher of EXPERIMENT on big frames, from labels alone.

    Interrupted and called again, it goes on with the very step it had come to. Several processes:
    torchrun --nproc-per-node N --no-python -- reskd train-... (mind the `--`), or srun in Slurm.
    """
    from reskd.common.console import emit
    from reskd.student_train.distributed import joined_processes
    from reskd.student_train.train import plan, runs
    from reskd.student_train.train.run_training import summary_text

    resolved = _resolved(experiment, overrides, "teacher", options)
    if options["plan_only"]:
        planned = plan.plan_training(resolved, "teacher")
        emit(planned, as_json=options["as_json"], text=plan.plan_text(planned))
        return
    with joined_processes(options["device"]) as processes:
        summary = runs.train_teacher(
            resolved,
            (run or resolved.teacher.checkpoint).absolute(),
            processes=processes,
            **_how(resolved, options),
        )
        if processes.is_first:
            emit(summary, as_json=options["as_json"], text=summary_text(summary))


@click.command("train-student")
@experiment_argument
@override_option
@click.option(
    "--cache",
    "caches",
    type=folder_path,
    multiple=True,
    help="Teacher cache to learn from; again for further teachers of the same views, whose losses "
    "are student.more_losses.",
)
@click.option("--run", type=folder_path, help="Folder of the run to write.")
@click.option(
    "--teacher",
    type=click.Choice(["cached", "live"]),
    default="cached",
    show_default=True,
    help="Read the teacher's outputs from --cache, or compute them in every step.",
)
@click.option("--no-distill", is_flag=True, help="From labels alone, all else equal.")
@click.option("--allow-incomplete", is_flag=True, help="Use the finished units of a cache.")
@click.option(
    "--on-missing",
    type=click.Choice(["refuse", "compute"]),
    default="refuse",
    show_default=True,
    help="Refuse a --cache that is absent or incomplete, or run the teacher for what it lacks.",
)
@training_options
def train_student(
    experiment: str,
    overrides: tuple[str, ...],
    caches: tuple[Path, ...],
    run: Path | None,
    teacher: Literal["cached", "live"],
    no_distill: bool,
    allow_incomplete: bool,
    on_missing: Literal["refuse", "compute"],
    **options: Unpack[TrainingOptions],
) -> None:
    """Train the student of EXPERIMENT on small frames, from the teacher's stored outputs.

    With --no-distill it learns from labels alone: on the stored frames if --cache is given, else on
    freshly decoded views. With --teacher live no cache is needed: the teacher sees the same views,
    decoded anew, in every step, which is the control for what stored outputs are worth.
    With --on-missing compute the teacher runs before the first step, as cache-teacher would run it,
    for what the cache lacks; videos that are new in the index are added by cache extend alone.
    Interrupted and called again, it goes on with the very step it had come to. Several processes:
    torchrun --nproc-per-node N --no-python -- reskd train-... (mind the `--`), or srun in Slurm.
    """
    if teacher == "live" and no_distill:
        raise click.UsageError(
            "--teacher live computes outputs and --no-distill ignores them; choose one of the two."
        )
    from reskd.common.console import emit
    from reskd.student_train.distributed import joined_processes
    from reskd.student_train.train import fill_cache, plan, runs
    from reskd.student_train.train.run_training import summary_text

    resolved = _resolved(experiment, overrides, "student", options)
    cache = caches[0] if caches else None
    if options["plan_only"]:
        planned = plan.plan_training(resolved, "student", teacher=teacher)
        if on_missing == "compute":
            filled = fill_cache.check_fillable(
                cache, teacher=teacher, allow_incomplete=allow_incomplete
            )
            planned["filling"] = fill_cache.plan_filling(resolved, filled)
        emit(planned, as_json=options["as_json"], text=plan.plan_text(planned))
        return
    if run is None:
        raise click.UsageError("Name the folder to write: --run DIR (or ask for --plan alone).")
    with joined_processes(options["device"]) as processes:
        summary = runs.train_student(
            resolved,
            run.absolute(),
            cache=cache,
            more_caches=caches[1:],
            teacher=teacher,
            distill=not no_distill,
            processes=processes,
            allow_incomplete=allow_incomplete,
            on_missing=on_missing,
            **_how(resolved, options),
        )
        if processes.is_first:
            emit(summary, as_json=options["as_json"], text=summary_text(summary))


def _resolved(
    experiment: str, overrides: tuple[str, ...], role: str, options: TrainingOptions
) -> "Experiment":
    from reskd.common.experiment.load import load_experiment

    compiled = [f"{role}.training.compile=true"] if options["compiled"] else []
    return load_experiment(experiment, [*overrides, *compiled])


def _how(experiment: "Experiment", options: TrainingOptions) -> RunArguments:
    """What `runs.train_teacher` and `runs.train_student` both take."""
    max_bad = options["max_bad"]
    if options["resume_from"] is not None and (options["fresh"] or options["replace"] is not None):
        raise click.UsageError("--resume-from goes on and --fresh starts over; choose one of them.")
    return {
        "max_bad": experiment.data.max_bad if max_bad is None else max_bad,
        "fresh": options["fresh"],
        "replace": options["replace"],
        "resume_from": options["resume_from"],
        "validate": options["validate"],
        "keeping": clip_keeping(options["clips_store"], options["clips_store_gb"]),
        "command": command_line(click.get_current_context()),
    }
