"""`reskd dataset`: make and look at video indexes."""

import click

from common.dataset_check.cli import check
from common.dataset_sheet.cli import show
from common.frame_store.cli import extract_frames
from common.importers.cli_import import import_


@click.group()
def dataset() -> None:
    """Make and look at video indexes."""


dataset.add_command(import_)
dataset.add_command(check)
dataset.add_command(extract_frames)
dataset.add_command(show)
