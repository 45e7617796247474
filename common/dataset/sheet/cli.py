"""`reskd dataset show`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reskd.common.cli.options import json_option, override_option
from reskd.common.console import in_lines

if TYPE_CHECKING:
    from reskd.common.dataset.sheet.sheet import Drawn

SHEET_OPTIONS = {
    "experiment": "--experiment",
    "overrides": "-o",
    "split": "--split",
    "per_class": "--per-class",
    "num_classes": "--classes",
    "seed": "--seed",
}
"""Those that mean nothing without --out."""


@click.command("show")
@click.argument("index_file", metavar="INDEX", type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="SHEET.png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw frames of some videos of each class, as teacher and student see them.",
)
@click.option(
    "--experiment",
    metavar="EXPERIMENT",
    help="Draw views and sizes of this experiment; default: 224 and 112 pixels.",
)
@override_option
@click.option("--split", metavar="NAME", help="Draw videos of this split alone.")
@click.option(
    "--per-class",
    metavar="N",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Videos drawn of a class.",
)
@click.option(
    "--classes",
    "num_classes",
    metavar="N",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Classes drawn, chosen at random where there are more.",
)
@click.option(
    "--seed",
    metavar="S",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Another one chooses other classes and videos.",
)
@json_option
@click.pass_context
def show(
    context: click.Context,
    index_file: Path,
    out: Path | None,
    experiment: str | None,
    overrides: tuple[str, ...],
    split: str | None,
    per_class: int,
    num_classes: int,
    seed: int,
    as_json: bool,
) -> None:
    """Count the videos of INDEX by split and class; with --out, draw some of them.

    The sheet shows frames of each video side by side: at the teacher's size, at the student's with
    every pixel enlarged, and at the student's own. Videos of the training split are drawn as the
    first view that is drawn for training, the others as the test sees them. What cannot be read
    has the reason in its place.
    """
    _check_options(context, out, experiment, overrides)
    from reskd.common.console import emit
    from reskd.common.dataset.importing.report import summary, table
    from reskd.common.dataset.index import read_index

    index = read_index(index_file)
    result, text = summary(index_file, index), table(index)
    if out is not None:
        from reskd.common.dataset.sheet.choice import choose
        from reskd.common.dataset.sheet.pictures import PreviewSpec
        from reskd.common.dataset.sheet.sheet import draw_sheet
        from reskd.common.experiment.load import load_experiment

        spec = (
            PreviewSpec.usual(index_file)
            if experiment is None
            else PreviewSpec.of_experiment(load_experiment(experiment, overrides))
        )
        choice = choose(index, split=split, num_classes=num_classes, per_class=per_class, seed=seed)
        drawn = draw_sheet(out, index, choice, spec, title=index_file.name)
        result, text = result | {"sheet": _as_json(drawn)}, in_lines(text, _text(drawn))
    emit(result, as_json=as_json, text=text)


def _check_options(
    context: click.Context, out: Path | None, experiment: str | None, overrides: tuple[str, ...]
) -> None:
    given = [
        option
        for name, option in SHEET_OPTIONS.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if out is None and given:
        raise click.UsageError(
            f"without --out no sheet is drawn, and {', '.join(given)} would change nothing else."
        )
    if out is not None and out.suffix.lower() != ".png":
        raise click.UsageError(f"--out is a PNG file, its name ends in .png; got {out}.")
    if overrides and experiment is None:
        raise click.UsageError("-o changes an experiment; name one with --experiment.")


def _as_json(drawn: "Drawn") -> dict[str, Any]:
    return {
        "path": str(drawn.path.absolute()),
        "width": drawn.width,
        "height": drawn.height,
        "videos": {
            chosen.name: [video.id for video in chosen.videos] for chosen in drawn.choice.classes
        },
        "classes_left_out": drawn.choice.num_left_out,
        "unreadable": dict(drawn.problems),
    }


def _text(drawn: "Drawn") -> str:
    choice = drawn.choice
    shown = f"{choice.num_videos} videos of {len(choice.classes)} classes"
    lines = [f"{drawn.path}: {shown}, {drawn.width}x{drawn.height} pixels"]
    if choice.num_left_out:
        lines.append(f"{choice.num_left_out} classes are left out of it; --classes shows more")
    lines += [f"{video}: {problem}" for video, problem in drawn.problems.items()]
    return in_lines(*lines)
