"""What a training run leaves in its folder, beside the checkpoint (common/models/checkpoint.py).

```
states/000000420/   the run after 420 steps; the newest few are kept, each written whole (state.py)
    weights.safetensors   everything that is trained, the adapter included
    state.pt              optimiser, scaler, average of the weights, place in the epoch; readable
                          with weights_only=True
    recipe.json           what decides the run's result, to say what another run does otherwise
    seal.json             step, digest of the recipe, sha256 of the three files; written last
best/               checkpoint of the best measurement so far, and measured.json: which it was
README.md           model card (student_train/run/model_card.py), in best/ as well
events.jsonl        log (log.py), and tensorboard/
failure/            the batch that ended the run, where one did (reproduce.py)
.lock               held by the process that trains here, which it names
```
"""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from torch import nn

from reskd.common.errors import DataError, StoppedShortError
from reskd.common.models.checkpoint import BEST_CHECKPOINT, RUN_LOCK, RUN_STATES
from reskd.common.models.checkpoint_record import CONFIG_FILE
from reskd.common.storage.folder_lock import locked
from reskd.common.storage.partial import PARTIAL_SUFFIX, clear_partials_in
from reskd.common.storage.records import digest
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.log import EVENTS_FILE, TENSORBOARD_FOLDER
from reskd.student_train.run.recipe_record import (
    checkpoint_difference,
    first_difference,
    more_epochs,
    read_recipe,
)
from reskd.student_train.run.state import (
    RunPosition,
    SavedState,
    Stateful,
    read_state,
    state_name,
    write_state,
)

STATES_FOLDER: Final = RUN_STATES
BEST_FOLDER: Final = BEST_CHECKPOINT
FAILURE_FOLDER: Final = "failure"
LOCK_FILE: Final = RUN_LOCK
_WITHOUT_SEAL: Final = (
    " This state was saved by an earlier version, without a seal: whether its bytes are those that "
    "were written cannot be told."
)


class RunFolder:
    """States of one run.

    Args:
        path: The folder; made when first written to.
        recipe: Everything that decides the run's result; a state saved by another one is refused.
        keep: States to keep.
        resume_from: Steps done in the state to go on from; None takes the newest one.
    """

    def __init__(
        self,
        path: Path,
        recipe: Mapping[str, Any],
        *,
        keep: int = 2,
        resume_from: int | None = None,
    ) -> None:
        self.path = path
        self._recipe, self._keep, self._resume_from = recipe, keep, resume_from
        self._recipe_sha256 = digest(recipe)
        self.unproved = ""
        """What could not be proved of the state that was loaded, as a sentence."""

    @contextmanager
    def held(self, processes: ProcessGroup) -> Iterator[None]:
        """Keep other runs out while these processes train here; the first one holds the folder.

        It also removes what killed processes left half-written in it.

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
                else:
                    clear_partials_in(self.path)
            refusal = processes.all_of(refusal)[0]
            if refusal:
                raise StoppedShortError(refusal)
            yield

    def save(self, weights: nn.Module, parts: Mapping[str, Stateful], place: RunPosition) -> None:
        """Add a state, whole or not at all, and remove the oldest above those to keep."""
        folder = self._folder_of(place.steps_done)
        if folder.exists():  # of a run that was stopped where it had begun
            return
        write_state(folder, weights, parts, place, self._recipe)
        for old in [*self._states()[: -self._keep], *folder.parent.glob(f"*{PARTIAL_SUFFIX}")]:
            shutil.rmtree(old)

    def load(self, weights: nn.Module, parts: Mapping[str, Stateful]) -> RunPosition:
        """Fill in the newest state, if there is one, or that which was asked for.

        Returns:
            Where to go on; the beginning for a new run.

        Raises:
            DataError: If the folder holds states of another recipe, a damaged one, no such state
                as was asked for, or a checkpoint from elsewhere.
        """
        states = self._states()
        if self._resume_from is not None:
            folder = self._folder_of(self._resume_from)
            if folder not in states:
                raise DataError(
                    f"{self.path} holds no state after {self._resume_from} steps. --resume-from "
                    f"takes one of {', '.join(str(int(one.name)) for one in states) or 'none'}."
                )
        elif states:
            folder = states[-1]
        elif (self.path / CONFIG_FILE).exists():
            raise DataError(
                f"{self.path} holds a checkpoint that was not trained here, and training would "
                "replace it. Name another folder with --run, or give it up with "
                f"--fresh --replace {shlex.quote(self.path.name)}."
            )
        else:
            return RunPosition()
        state = self._read(folder)
        self.unproved = "" if state.sealed else _WITHOUT_SEAL
        if state.recipe_sha256 != self._recipe_sha256:
            self._give_more_epochs(folder, state.place)
        weights.load_state_dict(state.weights)
        for name, part in parts.items():
            part.load_state_dict(state.parts[name])
        return state.place

    def _read(self, folder: Path) -> SavedState:
        """A state, or what to do without it."""
        try:
            return read_state(folder)
        except DataError as error:
            raise DataError(f"{error} {self._without(folder)}") from error

    def _without(self, damaged: Path) -> str:
        """How to go on where a state is damaged."""
        for folder in reversed([one for one in self._states() if one < damaged]):
            try:
                before = read_state(folder).place
            except DataError:
                continue
            return (
                f"To go on from the state before it, call the same command once with --resume-from "
                f"{before.steps_done}; what was trained after that is trained again. Or start over "
                "with --fresh."
            )
        return "There is no whole state before it, so start over with --fresh."

    def forget_later(self, place: RunPosition) -> None:
        """Remove the states after the one that was asked for: they are made again."""
        for state in self._states():
            if int(state.name) > place.steps_done:
                _remove(state, shutil.rmtree, "--resume-from")

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
            return read_state(state).recipe_sha256 == self._recipe_sha256
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
            _remove(folder, shutil.rmtree)
        for name in (EVENTS_FILE, CONFIG_FILE):
            _remove(self.path / name, Path.unlink)

    def _states(self) -> list[Path]:
        """Finished states, the oldest first."""
        folder = self.path / STATES_FOLDER
        return sorted(path for path in folder.glob("*") if path.name.isdecimal())

    def _folder_of(self, step: int) -> Path:
        return self.path / STATES_FOLDER / state_name(step)


def _remove(path: Path, how: Callable[[Path], None], option: str = "--fresh") -> None:
    if not os.path.lexists(path):
        return
    try:
        how(path)
    except OSError as error:
        raise DataError(
            f"{option} cannot remove {error.filename or path} ({error.strerror or error}), so "
            "nothing is trained. Remove it yourself, or name another folder with --run."
        ) from error
