"""`reskd dataset`: make and look at video indexes."""

import click

from reskd.common.dataset.check.cli import check
from reskd.common.dataset.frames.cli import extract_frames
from reskd.common.dataset.importing.cli import import_
from reskd.common.dataset.sheet.cli import show


@click.group()
def dataset() -> None:
    """Make and look at video indexes."""


dataset.add_command(import_)
dataset.add_command(check)
dataset.add_command(extract_frames)
dataset.add_command(show)
