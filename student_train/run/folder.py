"""What a training run leaves in its folder, beside the checkpoint (common/models/checkpoint.py).

```
states/000000420/   the run after 420 steps; the newest few are kept, each written whole
    weights.safetensors   everything that is trained, the adapter included
    state.pt              optimiser, scaler, average of the weights, place in the epoch; readable
                          with weights_only=True
best/               checkpoint of the best measurement so far, and measured.json: which it was
README.md           model card (student_train/run/model_card.py), in best/ as well
events.jsonl        log (log.py), and tensorboard/
failure/            the batch that ended the run, where one did (reproduce.py)
.lock               held by the process that trains here, which it names
```
"""

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from reskd.common.errors import DataError, StoppedShortError
from reskd.common.models.checkpoint import CONFIG_FILE
from reskd.common.storage.atomic_write import PARTIAL_SUFFIX, atomic_folder, atomic_write
from reskd.common.storage.folder_lock import locked
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.log import EVENTS_FILE, TENSORBOARD_FOLDER

STATES_FOLDER: Final = "states"
BEST_FOLDER: Final = "best"
FAILURE_FOLDER: Final = "failure"
LOCK_FILE: Final = ".lock"
WEIGHTS_FILE: Final = "weights.safetensors"
STATE_FILE: Final = "state.pt"


class Stateful(Protocol):
    """A part of a run that changes while it trains: optimiser, scaler, average of the weights."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(slots=True)
class RunPosition:
    """How far a run has come."""

    epoch: int = 0
    """Epoch to go on with."""
    step: int = 0
    """Step of that epoch to go on with."""
    steps_done: int = 0
    """Optimiser steps since the start of the run."""
    sums: dict[str, float] = field(default_factory=dict)
    """Figures of the epoch so far, summed up over the clips of all processes."""


class RunFolder:
    """States of one run.

    Args:
        path: The folder; made when first written to.
        recipe_sha256: Digest of everything that decides the run's result; a state saved by another
            recipe is refused.
        keep: States to keep.
    """

    def __init__(self, path: Path, recipe_sha256: str, *, keep: int = 2) -> None:
        self.path = path
        self._recipe, self._keep = recipe_sha256, keep

    @contextmanager
    def held(self, processes: ProcessGroup) -> Iterator[None]:
        """Keep other runs out while these processes train here; the first one holds the folder.

        Raises:
            StoppedShortError: In all of them, if another run does.
        """
        advice = (
            "Wait for it, or stop it and run the same command again: it goes on from what is on "
            "disk. Or name another folder with --run."
        )
        with ExitStack() as stack:
            refusal = ""
            if processes.is_first:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = locked(self.path / LOCK_FILE, task=f"training in {self.path}", advice=advice)
                try:
                    stack.enter_context(lock)
                except StoppedShortError as error:
                    refusal = str(error)
            refusal = processes.all_of(refusal)[0]
            if refusal:
                raise StoppedShortError(refusal)
            yield

    def save(self, weights: nn.Module, parts: Mapping[str, Stateful], place: RunPosition) -> None:
        """Add a state, whole or not at all, and remove the oldest above those to keep."""
        folder = self.path / STATES_FOLDER / f"{place.steps_done:09d}"
        if folder.exists():  # of a run that was stopped where it had begun
            return
        state = {
            "recipe_sha256": self._recipe,
            "place": asdict(place),
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        tensors = {name: value.contiguous() for name, value in weights.state_dict().items()}
        with atomic_folder(folder) as partial:
            atomic_write(partial / WEIGHTS_FILE, safetensors.torch.save(tensors))
            atomic_write(partial / STATE_FILE, buffer.getbuffer())
        for old in [*self._states()[: -self._keep], *folder.parent.glob(f"*{PARTIAL_SUFFIX}")]:
            shutil.rmtree(old)

    def load(self, weights: nn.Module, parts: Mapping[str, Stateful]) -> RunPosition:
        """Fill in the newest state, if there is one.

        Returns:
            Where to go on; the beginning for a new run.

        Raises:
            DataError: If the folder holds states of another recipe, a damaged one, or a checkpoint
                from elsewhere.
        """
        states = self._states()
        if not states:
            if (self.path / CONFIG_FILE).exists():
                raise DataError(
                    f"{self.path} holds a checkpoint that was not trained here, and training would "
                    "replace it. Name another folder with --run, or give it up with --fresh."
                )
            return RunPosition()
        state, tensors = _read_state(states[-1])
        if state["recipe_sha256"] != self._recipe:
            raise DataError(
                f"{self.path} holds a run of another recipe (experiment, cache or options differ). "
                "Name another folder with --run, or start over in this one with --fresh."
            )
        weights.load_state_dict(tensors)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        return RunPosition(**state["place"])

    def clear(self) -> None:
        """Forget an earlier run and the checkpoint it left."""
        for name in (CONFIG_FILE, EVENTS_FILE):  # without the first it is no checkpoint any more
            (self.path / name).unlink(missing_ok=True)
        for name in (STATES_FOLDER, BEST_FOLDER, FAILURE_FOLDER, TENSORBOARD_FOLDER):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for folder in self.path.glob(f"{FAILURE_FOLDER}-*"):  # of other processes
            shutil.rmtree(folder, ignore_errors=True)

    def _states(self) -> list[Path]:
        """Whole states, the oldest first."""
        folder = self.path / STATES_FOLDER
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if path.suffix != PARTIAL_SUFFIX)


def _read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        state = torch.load(folder / STATE_FILE, weights_only=True, map_location="cpu")
        tensors = safetensors.torch.load((folder / WEIGHTS_FILE).read_bytes())
        RunPosition(**state["place"])
        state["recipe_sha256"], state["parts"]
    except Exception as error:
        # Of many kinds, and torch's own words recommend to load the file unsafely.
        raise DataError(
            f"The state {folder} is damaged. Remove this folder to go on from the state before it, "
            "if there is one, or start over with --fresh."
        ) from error
    return state, tensors
