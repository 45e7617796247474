"""What a training run leaves in its folder, beside the checkpoint (common/models/checkpoint.py).

```
states/000000420/   the run after 420 steps; the newest few are kept, each written whole
    weights.safetensors   everything that is trained, the adapter included
    state.pt              optimiser, scaler, average of the weights, place in the epoch; readable
                          with weights_only=True
    recipe.json           what decides the run's result, to say what another run does otherwise
best/               checkpoint of the best measurement so far, and measured.json: which it was
README.md           model card (student_train/run/model_card.py), in best/ as well
events.jsonl        log (log.py), and tensorboard/
failure/            the batch that ended the run, where one did (reproduce.py)
.lock               held by the process that trains here, which it names
```
"""

import io
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from reskd.common.errors import DataError, StoppedShortError
from reskd.common.models.checkpoint import BEST_CHECKPOINT, CONFIG_FILE, RUN_LOCK, RUN_STATES
from reskd.common.storage.atomic_write import PARTIAL_SUFFIX, atomic_folder, atomic_write
from reskd.common.storage.folder_lock import locked
from reskd.common.storage.records import digest
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.log import EVENTS_FILE, TENSORBOARD_FOLDER
from reskd.student_train.run.recipe_record import (
    RECIPE_FILE,
    checkpoint_difference,
    first_difference,
    more_epochs,
    read_recipe,
    recipe_record,
)

STATES_FOLDER: Final = RUN_STATES
BEST_FOLDER: Final = BEST_CHECKPOINT
FAILURE_FOLDER: Final = "failure"
LOCK_FILE: Final = RUN_LOCK
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
    finished_after: list[int] = field(default_factory=list)
    """Numbers of epochs with which it was finished before it was given more."""


class RunFolder:
    """States of one run.

    Args:
        path: The folder; made when first written to.
        recipe: Everything that decides the run's result; a state saved by another one is refused.
        keep: States to keep.
    """

    def __init__(self, path: Path, recipe: Mapping[str, Any], *, keep: int = 2) -> None:
        self.path = path
        self._recipe, self._keep = recipe, keep
        self._recipe_sha256 = digest(recipe)

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
            "recipe_sha256": self._recipe_sha256,
            "place": asdict(place),
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        tensors = {name: value.contiguous() for name, value in weights.state_dict().items()}
        with atomic_folder(folder) as partial:
            atomic_write(partial / WEIGHTS_FILE, safetensors.torch.save(tensors))
            atomic_write(partial / STATE_FILE, buffer.getbuffer())
            atomic_write(partial / RECIPE_FILE, recipe_record(self._recipe))
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
                    "replace it. Name another folder with --run, or give it up with "
                    f"--fresh --replace {shlex.quote(self.path.name)}."
                )
            return RunPosition()
        state, tensors = _read_state(states[-1])
        place = RunPosition(**state["place"])
        if state["recipe_sha256"] != self._recipe_sha256:
            self._give_more_epochs(states[-1], place)
        weights.load_state_dict(tensors)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        return place

    def _give_more_epochs(self, state: Path, place: RunPosition) -> None:
        """Allow the one change of a recipe that a finished run may go on with."""
        recorded = read_recipe(state)
        before = None if recorded is None else more_epochs(recorded, self._recipe)
        if before is not None and place.epoch == before:
            place.finished_after.append(before)
            return
        unfinished = (
            ""
            if before is None
            else f" It has done {place.epoch} of {before}: finish these first, then give it more."
        )
        raise DataError(
            f"{self.path} holds a run of another recipe. First difference: {self.difference()}."
            f"{unfinished} Name another folder with --run, or start over in this one with "
            f"--fresh --replace {shlex.quote(self.path.name)}."
        )

    def difference(self) -> str:
        """The first key in which what lies here differs from the recipe; empty if in none."""
        states = self._states()
        if states and (recorded := read_recipe(states[-1])) is not None:
            return first_difference(recorded, self._recipe)
        for folder in (self.path, self.path / BEST_FOLDER):
            if difference := checkpoint_difference(folder, self._recipe):
                return difference
        if states and not self._saved_by_this_recipe(states[-1]):
            return "it does not say in what (experiment, cache or options)"
        return ""

    def _saved_by_this_recipe(self, state: Path) -> bool:
        try:
            return bool(_read_state(state)[0]["recipe_sha256"] == self._recipe_sha256)
        except DataError:
            return False

    def start_over(self, processes: ProcessGroup, *, replace: str | None) -> None:
        """Forget an earlier run of the same recipe, of any other one if its name is repeated.

        Args:
            processes: This one and the others; the first one deletes.
            replace: The folder's name, as a person has repeated it.

        Raises:
            DataError: In all of them, if the folder holds anything else, or not all of it can be
                removed.
        """
        problem = ""
        if processes.is_first:
            try:
                self._clear(replace)
            except DataError as error:
                problem = str(error)
        problem = processes.all_of(problem)[0]
        if problem:
            raise DataError(problem)

    def _clear(self, replace: str | None) -> None:
        if replace is not None and replace != self.path.name:
            raise DataError(
                f"--replace {replace} does not repeat the name of the folder {self.path}, which "
                f"is {self.path.name}. Nothing was deleted."
            )
        difference = self.difference() if replace is None else ""
        if difference:
            raise DataError(
                f"--fresh would delete what {self.path} holds, which is not this run. First "
                f"difference: {difference}. Name another folder with --run, or repeat the name of "
                f"this one: --fresh --replace {shlex.quote(self.path.name)}."
            )
        # The states after all that is no use without them, the mark of a checkpoint last: what
        # cannot be removed is never taken for a run that begins.
        failures = sorted(self.path.glob(f"{FAILURE_FOLDER}-*"))  # of other processes
        folders = (FAILURE_FOLDER, BEST_FOLDER, TENSORBOARD_FOLDER, STATES_FOLDER)
        for folder in [*failures, *(self.path / name for name in folders)]:
            _remove(folder, lambda path: shutil.rmtree(path))
        for name in (EVENTS_FILE, CONFIG_FILE):
            _remove(self.path / name, Path.unlink)

    def _states(self) -> list[Path]:
        """Whole states, the oldest first."""
        folder = self.path / STATES_FOLDER
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if path.suffix != PARTIAL_SUFFIX)


def _remove(path: Path, how: Callable[[Path], None]) -> None:
    if not os.path.lexists(path):
        return
    try:
        how(path)
    except OSError as error:
        raise DataError(
            f"--fresh cannot remove {error.filename or path} ({error.strerror or error}), so "
            "nothing is trained. Remove it yourself, or name another folder with --run."
        ) from error


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
