"""What a command says that needs the experiment of a checkpoint which was imported without one."""

from pathlib import Path

from common.checkpoints import read_checkpoint_info
from common.errors import DataError


def require_experiment(folder: Path) -> None:
    """Check that a checkpoint says which experiment it belongs to.

    Raises:
        DataError: If it says none, or the folder holds no checkpoint.
    """
    if not read_checkpoint_info(folder).experiment:
        raise DataError(
            f"{folder} was imported without an experiment, so nothing says which videos and clips "
            "to measure it on. Import it again with `reskd import-checkpoint ... --experiment "
            "EXPERIMENT`; `reskd extract-features` needs none."
        )
