"""Options that the importers of annotation files share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reskd.common.cli.options import json_option

if TYPE_CHECKING:
    from reskd.common.dataset.importing.labels import LabelKind
    from reskd.common.video.reader import Decoder

out_option = click.option(
    "--out",
    metavar="INDEX",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, for example videos.jsonl.",
)
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace INDEX where it is another one already.",
)
decoder_option = click.option(
    "--decoder",
    type=click.Choice(["auto", "decord", "pyav"]),
    default="auto",
    show_default=True,
    help="Who opens the videos; the experiment's data.decoder should be the same.",
)
jobs_option = click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Videos opened at a time; default: as many as processors.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOptions:
    """What the user said about an import from annotation files."""

    out: Path
    overwrite: bool
    videos: tuple[str, ...]
    classes: Path | None
    num_classes: int | None
    labels: "LabelKind | None"
    labels_from: int | None
    only_classes: bool
    ignore_columns: frozenset[str]
    allow_missing: int
    merge_duplicates: bool
    allow_copies: bool
    decoder: "Decoder"
    jobs: int | None
    quarantine: Path | None
    as_json: bool


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())


_OPTIONS = (
    click.option(
        "--videos",
        metavar="[SPLIT=]DIR",
        required=True,
        multiple=True,
        help="Folder that the paths of the annotations start from, or that the videos lie in at "
        "any depth. With SPLIT= the folder of one split: then ids begin with the split.",
    ),
    out_option,
    overwrite_option,
    click.option(
        "--classes",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Class names in the order of the labels, one per line, or `0 name`.",
    ),
    click.option(
        "--num-classes",
        metavar="K",
        type=click.IntRange(min=1),
        help="Number of classes, so that classes without videos show.",
    ),
    click.option(
        "--labels",
        type=click.Choice(["names", "numbers"]),
        help="What labels are that are written in digits; default: numbers, where no other reading "
        "is possible.",
    ),
    click.option(
        "--labels-from",
        type=click.Choice([0, 1]),
        help="First number of a class, where labels are numbers.",
    ),
    click.option(
        "--only-classes",
        is_flag=True,
        help="Leave out rows of classes that --classes does not have.",
    ),
    click.option(
        "--ignore-columns",
        metavar="A,B",
        default="",
        callback=lambda _context, _option, text: _names(text),
        help="Columns to leave out that the import has no use for; any other is an error.",
    ),
    click.option(
        "--allow-missing",
        metavar="N",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Keep up to N missing or unreadable videos in the index, as failed ones.",
    ),
    click.option(
        "--merge-duplicates",
        is_flag=True,
        help="Count a video once that is named twice in a split with the same labels.",
    ),
    click.option(
        "--allow-copies",
        is_flag=True,
        help="Accept different files of equal bytes in two splits.",
    ),
    decoder_option,
    jobs_option,
    click.option(
        "--quarantine",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Videos that are kept as failed ones and never opened; default: "
        "INDEX.quarantine.json, where it exists.",
    ),
    json_option,
)


def list_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options; it gets them as one ListOptions, first."""
    taken = ListOptions.__dataclass_fields__.keys()

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        shared = {name: arguments.pop(name) for name in taken}
        command(ListOptions(**shared), **arguments)

    decorated: Callable[..., None] = with_options
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return click.argument("sources", metavar="[SPLIT=]SOURCE...", nargs=-1, required=True)(
        decorated
    )
