"""`reskd evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from reskd.common.cli.options import (
    command_line,
    device_option,
    file_path,
    folder_path,
    json_option,
    override_option,
    run_path,
    trust_code_option,
)
from reskd.common.errors import DataError, StoppedShortError
from reskd.student_train.cli.options import clip_keeping, clips_options

if TYPE_CHECKING:
    from reskd.common.experiment import Experiment
    from reskd.student_train.evaluate.measure import Measured


@click.command("evaluate")
@click.argument("runs", metavar="RUN...", type=run_path, nargs=-1, required=True)
@click.option(
    "--index",
    "index_path",
    type=click.Path(path_type=Path),
    help="Default: that of the first run's experiment.",
)
@click.option("--split", help="Default: data.val_split of the first run's experiment.")
@click.option(
    "--experiment",
    metavar="EXPERIMENT",
    help="Says how to measure those RUNs that were imported without an experiment; the others keep "
    "their own.",
)
@override_option
@click.option("--clips", type=click.IntRange(1, 10000), help="Clips per video, spread over it.")
@click.option("--twice/--once", default=None, help="Also clips from segments' beginnings.")
@click.option("--crops", type=click.Choice(["1", "3"]), help="The centre, or both ends as well.")
@click.option(
    "--crop-fraction",
    type=click.FloatRange(0, 1, min_open=True),
    help="Side of a crop over the short side.",
)
@click.option(
    "--short-side", type=click.IntRange(1, 8192), help="Pixels; crops are taken from there."
)
@click.option(
    "--size", type=click.IntRange(1, 8192), help="Side of the teacher's frames in pixels."
)
@click.option("--batch", "batch_size", type=click.IntRange(1), help="Clips per forward pass.")
@click.option("--teacher", type=run_path, help="Measured too, before RUN: for agreement.")
@click.option(
    "--per-class", "class_table", metavar="OUT.csv", type=file_path, help="Also write the classes."
)
@click.option(
    "--scores",
    "scores_file",
    metavar="OUT.npz",
    type=file_path,
    help="Also write id, labels, scores, predicted and classes; of one RUN.",
)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    help="Share of unreadable videos above which to end with exit code 5, results printed and "
    "written; default: data.max_bad of the first run's experiment.",
)
@click.option("--report", metavar="DIR", type=folder_path, help="Also write DIR/index.html.")
@click.option(
    "--cache", type=folder_path, help="Where the cache of a run has moved, for the report."
)
@clips_options
@trust_code_option
@device_option
@json_option
def evaluate(
    runs: tuple[Path, ...],
    index_path: Path | None,
    split: str | None,
    experiment: str | None,
    overrides: tuple[str, ...],
    crops: Literal["1", "3"] | None,
    teacher: Path | None,
    class_table: Path | None,
    scores_file: Path | None,
    max_bad: float | None,
    report: Path | None,
    cache: Path | None,
    clips_store: Path | None,
    clips_store_gb: float,
    device: str,
    as_json: bool,
    **protocol: float | None,
) -> None:
    """Measure the networks in RUN...: accuracy with intervals, mean average precision and cost.

    Several runs are measured on the same videos, each at its own size, and compared; a teacher
    among them (or --teacher) also gives the agreement of students with it. The test views are those
    of the `evaluation` section of each run's experiment; --clips to --batch replace its fields.
    Without either they are one view per video: frames at segment centres, centre crop. The
    probabilities of a video's views are averaged; a video that cannot be read counts as
    wrong. torchrun and srun share the videos out over processes.
    A RUN that `reskd import-checkpoint` made without an experiment is measured as --experiment
    says; network, size and class names stay its own.
    """
    every = list(dict.fromkeys(path.absolute() for path in (*filter(None, [teacher]), *runs)))
    _check_outputs(scores_file, class_table, report, cache, several=len(every) > 1)
    from reskd.common.console import emit, in_lines
    from reskd.student_train.distributed import joined_processes
    from reskd.student_train.evaluate.measure import evaluate_runs, write_scores
    from reskd.student_train.evaluate.results import (
        evaluation_json,
        evaluation_text,
        results_of,
        write_class_table,
    )

    keeping = clip_keeping(clips_store, clips_store_gb)
    given = _given_experiment(experiment, overrides, every)
    if cache is not None:
        from reskd.student_train.report.caches import check_cache

        check_cache(cache)  # before hours of work
    fields = {**protocol, "crops": None if crops is None else int(crops)}
    with joined_processes(device) as processes:
        measured = evaluate_runs(
            every,
            index_path=index_path,
            split=split,
            processes=processes,
            protocol={field: value for field, value in fields.items() if value is not None},
            given=given,
            keeping=keeping,
        )
        if not processes.is_first:
            return
    results = results_of(measured)
    result = evaluation_json(results)
    if scores_file is not None:
        write_scores(scores_file, measured[0])
        result["scores"] = str(scores_file.absolute())
    if class_table is not None:
        write_class_table(class_table, results)
        result["per_class"] = str(class_table.absolute())
    text = evaluation_text(results, result)
    if report is not None:
        from reskd.student_train.report.collect import write_report

        command = command_line(click.get_current_context())
        page = write_report(report, results, command=command, cache=cache)
        result["report"] = str(page.absolute())
        text = in_lines(text, f"report: {page}")
    emit(result, as_json=as_json, text=text)
    # Of several processes only this one: torchrun stops the others as soon as one of them fails.
    _require_readable(measured, max_bad)


def _require_readable(measured: "Sequence[Measured]", max_bad: float | None) -> None:
    """Refuse figures that rest on too few videos, once they are printed and written.

    Raises:
        StoppedShortError: If any run could not read more than may be unreadable.
    """
    allowed = measured[0].experiment.data.max_bad if max_bad is None else max_bad
    worst = max(measured, key=lambda one: len(one.predictions.failures))
    failed, videos = len(worst.predictions.failures), len(worst.videos.entries)
    if failed > allowed * videos:
        raise StoppedShortError(
            f"{failed} of {videos} videos are unreadable, more than the {allowed:.2%} that "
            "--max-bad allows. The figures are printed and count them as wrong, so they "
            "say less about the network. The videos are listed above: fix or remove them, name "
            "the right ones with --index, or allow more with --max-bad."
        )


def _given_experiment(
    name: str | None, overrides: Sequence[str], runs: Sequence[Path]
) -> "Experiment | None":
    """The experiment for runs that carry none; an option that nothing would come of is refused."""
    if name is None:
        if overrides:
            raise click.UsageError(
                "-o changes the experiment named with --experiment. Of a RUN's own, --clips to "
                "--batch replace the test views, --index and --split the videos."
            )
        return None
    from reskd.common.experiment.load import load_experiment
    from reskd.common.models.checkpoint import read_checkpoint_info

    if all(read_checkpoint_info(run).experiment for run in runs):
        raise click.UsageError(
            "--experiment is for a RUN that was imported without an experiment; every RUN here has "
            "its own. Leave it out: --clips to --batch replace the test views, --index and --split "
            "the videos."
        )
    return load_experiment(name, overrides)


def _check_outputs(
    scores_file: Path | None,
    class_table: Path | None,
    report: Path | None,
    cache: Path | None,
    *,
    several: bool,
) -> None:
    """Refuse what cannot be written before hours of work."""
    if scores_file is not None and several:
        raise click.UsageError("--scores writes the scores of one RUN; measure the others apart.")
    if cache is not None and report is None:
        raise click.UsageError("--cache is for the report; name its folder with --report DIR.")
    for path, suffix, what in ((scores_file, ".npz", "scores"), (class_table, ".csv", "classes")):
        if path is not None and path.suffix != suffix:
            raise DataError(f"the file of {what} must end in {suffix}, got {path}")
