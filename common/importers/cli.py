"""`reskd dataset`: make and look at video indexes."""

from pathlib import Path

import click

from common.cli_options import json_option
from common.dataset_check.cli import check
from common.frame_store.cli import extract_frames
from common.importers.cli_import import import_


@click.group()
def dataset() -> None:
    """Make and look at video indexes."""


dataset.add_command(import_)
dataset.add_command(check)
dataset.add_command(extract_frames)


@dataset.command("show")
@click.argument("index_file", metavar="INDEX", type=click.Path(path_type=Path))
@json_option
def show(index_file: Path, as_json: bool) -> None:
    """Count the videos of INDEX by split and class."""
    from common.console import emit
    from common.importers.summary import summary, table
    from common.video.index import read_index

    index = read_index(index_file)
    emit(summary(index_file, index), as_json=as_json, text=table(index))
