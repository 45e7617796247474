"""What an imported checkpoint may lack: the experiment it belongs to, and names of its classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.checkpoints import CheckpointInfo
from common.config import experiment_tree
from common.errors import DataError
from common.specs import Experiment


def experiment_of(
    folder: Path, info: CheckpointInfo, given: Experiment | None
) -> Mapping[str, Any]:
    """The experiment that says which videos and clips a checkpoint is measured on.

    Args:
        folder: The checkpoint, for the message.
        info: What it says about itself.
        given: The experiment to take where it carries none.

    Raises:
        DataError: If there is neither.
    """
    if info.experiment:
        return info.experiment
    if given is None:
        raise DataError(
            f"{folder} was imported without an experiment, so nothing says which videos and clips "
            "to measure it on. Say it with `reskd evaluate ... --experiment EXPERIMENT`; `reskd "
            "predict` and `reskd extract-features` need none."
        )
    return experiment_tree(given)


def classes_are_numbered(info: CheckpointInfo) -> bool:
    """Whether its classes bear the names that importing gives where nobody named them."""
    return info.classes == tuple(f"class {number}" for number in range(len(info.classes)))
