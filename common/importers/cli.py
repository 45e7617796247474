"""`reskd dataset`: make and look at video indexes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.cli_options import json_option

if TYPE_CHECKING:
    from common.video.index import VideoIndex
    from common.video.reader import Decoder


@click.group()
def dataset() -> None:
    """Make and look at video indexes."""


@dataset.group("import")
def import_() -> None:
    """Make a video index from annotations."""


@import_.command("folder")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="INDEX",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write, for example videos.jsonl.",
)
@click.option(
    "--val",
    "val_fraction",
    metavar="SHARE",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of each class that becomes split `val`, where DIR is not split already.",
)
@click.option(
    "--allow-unreadable",
    is_flag=True,
    help="Keep unreadable videos in the index, as failed ones, instead of stopping.",
)
@click.option(
    "--decoder",
    type=click.Choice(["auto", "decord", "pyav"]),
    default="auto",
    show_default=True,
    help="Who opens the videos; the experiment's data.decoder should be the same.",
)
@json_option
def folder(
    directory: Path,
    out: Path,
    val_fraction: float,
    allow_unreadable: bool,
    decoder: "Decoder",
    as_json: bool,
) -> None:
    """Index the videos below DIR: the name of a sub-folder is the class of the videos in it.

    DIR/train, DIR/val and DIR/test are splits where they exist; then the classes are their
    sub-folders. Otherwise a share of each class becomes `val`, the same one every time.
    """
    from common.console import emit, progress
    from common.importers.folder import build_index, scan_folder
    from common.video.index import write_index

    scan = scan_folder(directory, val_fraction=val_fraction)
    with progress("opening", len(scan.videos), unit="videos") as advance:
        index = build_index(
            scan,
            decoder=decoder,
            allow_unreadable=allow_unreadable,
            progress=lambda done, of: advance(),
        )
    write_index(out, index)
    skipped = [str(directory.absolute() / name) for name in scan.skipped]
    text = f"{out}: {len(index.videos)} videos of {len(index.classes)} classes\n{_table(index)}"
    if skipped:
        text += f"\nskipped {len(skipped)} files that are no videos, such as {skipped[0]}"
    emit({**_summary(out, index), "skipped": skipped}, as_json=as_json, text=text)


@dataset.command("show")
@click.argument("index_file", metavar="INDEX", type=click.Path(path_type=Path))
@json_option
def show(index_file: Path, as_json: bool) -> None:
    """Count the videos of INDEX by split and class."""
    from common.console import emit
    from common.video.index import read_index

    index = read_index(index_file)
    emit(_summary(index_file, index), as_json=as_json, text=_table(index))


def _counts(index: "VideoIndex") -> dict[str, dict[str, int]]:
    """Videos by split and class; a video of several classes counts in each."""
    counts = {split: dict.fromkeys(index.classes, 0) for split in index.split_names()}
    for video in index.videos:
        for label in video.labels:
            counts[video.split][index.classes[label]] += 1
    return counts


def _summary(path: Path, index: "VideoIndex") -> dict[str, Any]:
    splits = {
        split: {
            "videos": len(index.split(split)),
            "frames": sum(video.num_frames for video in index.split(split)),
            "classes": classes,
        }
        for split, classes in _counts(index).items()
    }
    return {
        "index": str(path.absolute()),
        "root": str(index.root),
        "classes": list(index.classes),
        "splits": splits,
        "unreadable": [str(index.path_of(video)) for video in index.videos if not video.num_frames],
    }


def _table(index: "VideoIndex") -> str:
    counts = _counts(index)
    unreadable = sum(video.num_frames == 0 for video in index.videos)
    totals = [str(len(index.split(split))) for split in counts]
    rows = [["class", *counts]]
    rows += [[name, *(str(classes[name]) for classes in counts.values())] for name in index.classes]
    rows += [["all videos", *totals]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    if unreadable:
        lines.append(f"{unreadable} of them could not be read and will count as failed")
    return "\n".join(lines)
