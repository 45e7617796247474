"""One saved state of a run: written whole, its seal last; read only if it is what was written."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from reskd.common.errors import CacheError, DataError
from reskd.common.storage.atomic_write import atomic_folder, atomic_write
from reskd.common.storage.records import digest, read_record, write_record
from reskd.student_train.run.recipe_record import RECIPE_FILE, recipe_record

WEIGHTS_FILE: Final = "weights.safetensors"
STATE_FILE: Final = "state.pt"
SEAL_FILE: Final = "seal.json"
_SEALED_FILES: Final = (WEIGHTS_FILE, STATE_FILE, RECIPE_FILE)


def state_name(step: int) -> str:
    """Name of the folder of the state after so many steps."""
    return f"{step:09d}"


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


class SavedState(NamedTuple):
    """What a state holds."""

    place: RunPosition
    recipe_sha256: str
    """Digest of the recipe it was saved by."""
    weights: dict[str, Tensor]
    parts: dict[str, Any]
    """By name, what each part's `load_state_dict` takes."""
    sealed: bool
    """Whether its bytes were proved; states of before there were seals have none."""


def write_state(
    folder: Path,
    weights: nn.Module,
    parts: Mapping[str, Stateful],
    place: RunPosition,
    recipe: Mapping[str, Any],
) -> None:
    """Write a state into a folder of its own, whole or not at all."""
    recipe_sha256 = digest(recipe)
    state = {
        "recipe_sha256": recipe_sha256,
        "place": asdict(place),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "sealed": True,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    tensors = {name: value.contiguous() for name, value in weights.state_dict().items()}
    contents = (safetensors.torch.save(tensors), buffer.getvalue(), recipe_record(recipe))
    with atomic_folder(folder) as partial:
        hashes = {}
        for name, content in zip(_SEALED_FILES, contents, strict=True):
            atomic_write(partial / name, content)
            hashes[name] = sha256(content).hexdigest()
        seal = {"files": hashes, "recipe_sha256": recipe_sha256, "step": place.steps_done}
        write_record(partial / SEAL_FILE, seal)


def read_state(folder: Path) -> SavedState:
    """Read a state, each file once, and prove that its bytes are those that were written.

    Raises:
        DataError: If it is damaged; what of it, is said.
    """
    seal = _read_seal(folder)
    contents = {}
    for name in _SEALED_FILES:
        try:
            contents[name] = (folder / name).read_bytes()
        except FileNotFoundError as error:
            if seal is None and name == RECIPE_FILE:  # from before recipes were kept
                continue
            raise _damaged(folder, f"it has no {name}") from error
        if seal is not None and sha256(contents[name]).hexdigest() != seal["files"].get(name):
            raise _damaged(folder, f"its {name} was changed after it was written")
    try:
        state = torch.load(io.BytesIO(contents[STATE_FILE]), weights_only=True, map_location="cpu")
        tensors = safetensors.torch.load(contents[WEIGHTS_FILE])
        place = RunPosition(**state["place"])
        recipe_sha256, parts = state["recipe_sha256"], state["parts"]
    except Exception as error:
        # Of many kinds, and torch's own words recommend to load the file unsafely.
        raise _damaged(folder, f"its {STATE_FILE} or {WEIGHTS_FILE} cannot be read") from error
    if seal is None and "sealed" in state:
        raise _damaged(folder, f"its {SEAL_FILE} is gone")
    found = (place.steps_done, recipe_sha256)
    if seal is not None and (seal["step"], seal["recipe_sha256"]) != found:
        raise _damaged(folder, f"its {SEAL_FILE} is that of another state")
    if folder.name != state_name(place.steps_done):
        raise _damaged(folder, f"it holds that of another state, after {place.steps_done} steps")
    return SavedState(place, recipe_sha256, tensors, parts, sealed=seal is not None)


def _read_seal(folder: Path) -> dict[str, Any] | None:
    """The seal of a state; None of one that has none."""
    try:
        seal = read_record(folder / SEAL_FILE)
        seal["files"], seal["step"], seal["recipe_sha256"]
    except FileNotFoundError:
        return None
    except (CacheError, KeyError) as error:
        raise _damaged(folder, f"its {SEAL_FILE} was changed after it was written") from error
    return seal


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(f"The state {folder} is damaged: {what}.")
