"""Options that training and measuring share."""

from pathlib import Path

import click

from reskd.common.cli.options import combined, folder_path
from reskd.student_train.evaluate.clip_keeping import CLIPS_GB, ClipKeeping

clips_options = combined(
    click.option(
        "--clips-store",
        metavar="DIR",
        type=folder_path,
        help="Keep the test clips of protocols of one view per video, which are cut once, there; "
        "default: INDEX.clips.",
    ),
    click.option(
        "--clips-store-gb",
        type=click.FloatRange(0),
        default=CLIPS_GB,
        show_default=True,
        help="Most that this folder may take; 0 keeps none.",
    ),
)


def clip_keeping(folder: Path | None, most_gb: float) -> ClipKeeping | None:
    """What these options say.

    Raises:
        click.UsageError: If one of them says nothing.
    """
    if most_gb:
        return ClipKeeping(folder=folder and folder.absolute(), most_gb=most_gb)
    if folder is not None:
        raise click.UsageError("--clips-store-gb 0 keeps no clips, so leave --clips-store out.")
    return None
