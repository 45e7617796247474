"""`reskd evaluate`."""

from pathlib import Path
from typing import Literal

import click

from common.cli_options import device_option, json_option
from common.errors import DataError

folder_path = click.Path(path_type=Path, file_okay=False)
file_path = click.Path(path_type=Path, dir_okay=False)


@click.command("evaluate")
@click.argument("runs", metavar="RUN...", type=folder_path, nargs=-1, required=True)
@click.option(
    "--index",
    "index_path",
    type=click.Path(path_type=Path),
    help="Default: that of the first run.",
)
@click.option("--split", help="Default: data.val_split of the first run's experiment.")
@click.option("--clips", type=click.IntRange(1), help="Clips per video, spread over it.")
@click.option("--twice/--once", default=None, help="Also clips from segments' beginnings.")
@click.option("--crops", type=click.Choice(["1", "3"]), help="The centre, or both ends as well.")
@click.option(
    "--crop-fraction",
    type=click.FloatRange(0, 1, min_open=True),
    help="Side of a crop over the short side.",
)
@click.option("--short-side", type=click.IntRange(1), help="Pixels; crops are taken from there.")
@click.option("--size", type=click.IntRange(1), help="Side of the teacher's frames in pixels.")
@click.option("--batch", "batch_size", type=click.IntRange(1), help="Clips per forward pass.")
@click.option("--teacher", type=folder_path, help="Measured too, before RUN: for agreement.")
@click.option(
    "--per-class", "class_table", metavar="OUT.csv", type=file_path, help="Also write the classes."
)
@click.option(
    "--scores",
    "scores_file",
    metavar="OUT.npz",
    type=file_path,
    help="Also write id, labels, scores, answered and classes; of one RUN.",
)
@click.option("--report", metavar="DIR", type=folder_path, help="Also write DIR/index.html.")
@click.option("--cache", type=folder_path, help="Teacher cache whose card the report shows.")
@device_option
@json_option
def evaluate(
    runs: tuple[Path, ...],
    index_path: Path | None,
    split: str | None,
    crops: Literal["1", "3"] | None,
    teacher: Path | None,
    class_table: Path | None,
    scores_file: Path | None,
    report: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
    **protocol: float | None,
) -> None:
    """Measure the networks in RUN...: accuracy with intervals, mean average precision and cost.

    Several runs are measured on the same videos, each at its own size, and compared; a teacher
    among them (or --teacher) also gives the agreement of students with it. The test views are those
    of the `evaluation` section of each run's experiment; --clips to --batch replace its fields.
    Without either they are one view per video: frames at segment centres, centre crop. The
    probabilities of a video's views are averaged. torchrun shares the videos out over processes.
    """
    every = list(dict.fromkeys(path.absolute() for path in (*filter(None, [teacher]), *runs)))
    _check_outputs(scores_file, class_table, report, cache, several=len(every) > 1)
    from common.checkpoint_import.required_experiment import require_experiment
    from common.console import emit
    from student_train import evaluate as evaluation
    from student_train import evaluation_results as found
    from student_train.ranks import joined_ranks

    for run in every:
        require_experiment(run)
    if cache is not None:
        from student_train.report.records import check_cache

        check_cache(cache)  # before hours of work
    given = {**protocol, "crops": None if crops is None else int(crops)}
    with joined_ranks(device) as ranks:
        measured = evaluation.evaluate_runs(
            every,
            index_path=index_path,
            split=split,
            ranks=ranks,
            protocol={field: value for field, value in given.items() if value is not None},
        )
        if not ranks.is_first:
            return
    results = found.results_of(measured)
    result = found.evaluation_json(results)
    if scores_file is not None:
        evaluation.write_scores(scores_file, measured[0])
        result["scores"] = str(scores_file.absolute())
    if class_table is not None:
        found.write_class_table(class_table, results)
        result["per_class"] = str(class_table.absolute())
    text = found.evaluation_text(results)
    if report is not None:
        from student_train.report.collect import write_report

        command = _command_line(click.get_current_context())
        page = write_report(report, results, command=command, cache=cache)
        result["report"] = str(page.absolute())
        text += f"\nreport: {page}"
    emit(result, as_json=as_json, text=text)


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


def _command_line(context: click.Context) -> list[str]:
    """What was typed, with absolute paths, so that it works from anywhere."""
    options, arguments = [], []
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        values = value if isinstance(value, tuple) else (value,)
        texts = [str(one.absolute()) if isinstance(one, Path) else str(one) for one in values]
        if isinstance(parameter, click.Argument):
            arguments += texts
        elif isinstance(value, bool):
            options.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            options += [parameter.opts[0], *texts]
    return ["reskd", "evaluate", *arguments, *options]
