"""What an import is told beside the file."""

from dataclasses import dataclass

from reskd.common.experiment import Experiment, Role


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """What the file cannot say, or what is wanted of it."""

    model: str | None = None
    """Short name of the model; None tells by the tensors."""
    weights: str | None = None
    """`raw` or `ema` where the file holds a moving average too, or the place of the weights."""
    prefix: str | None = None
    """What the names of the network begin with; None tells by the names."""
    role: Role | None = None
    """Network of an RKD file (None: the student), or role of another file's (None: teacher)."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the scores; None numbers them."""
    size: int | None = None
    """Side of its frames in pixels; None: the experiment's, else 112 for an RKD student and what
    the model is usually given for others."""
    init_classifier: bool = False
    """Leave the file's classifier and start a new one, for `classes`."""
    seed: int = 0
    """Key of a new classifier's weights."""
    experiment: Experiment | None = None
    """The experiment it is part of; None writes an empty one."""
