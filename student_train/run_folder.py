"""What a training run leaves in its folder, beside the checkpoint (common/checkpoints.py).

```
events.jsonl     one JSON object per finished epoch
train_state.pt   network, optimiser, scaler and the next epoch; readable with weights_only=True
```
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from common.atomic_write import atomic_write
from common.checkpoints import CONFIG_FILE
from common.errors import DataError

EVENTS_FILE = "events.jsonl"
STATE_FILE = "train_state.pt"


class Stateful(Protocol):
    """A part of a run that changes while it trains: network, optimiser, scaler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class RunFolder:
    """State and log of one run.

    Args:
        path: The folder; made when first written to.
        recipe_sha256: Digest of everything that decides the run's result; a state saved by another
            recipe is refused.
    """

    def __init__(self, path: Path, recipe_sha256: str) -> None:
        self.path = path
        self._recipe = recipe_sha256

    def save_state(self, parts: Mapping[str, Stateful], next_epoch: int) -> None:
        """Replace the saved state, whole."""
        buffer = io.BytesIO()
        state = {
            "recipe_sha256": self._recipe,
            "next_epoch": next_epoch,
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }
        torch.save(state, buffer)
        atomic_write(self.path / STATE_FILE, buffer.getbuffer())

    def load_state(self, parts: Mapping[str, Stateful]) -> int:
        """Fill in the saved state, if there is one.

        Returns:
            The epoch to go on with; 0 for a new run.

        Raises:
            DataError: If the folder holds the state of another recipe, a damaged one, or a
                checkpoint from elsewhere.
        """
        path = self.path / STATE_FILE
        if not path.exists():
            if (self.path / CONFIG_FILE).exists():
                raise DataError(
                    f"{self.path} holds a checkpoint that was not trained here, and training would "
                    "replace it. Name another folder with --run, or give it up with --fresh."
                )
            return 0
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            recipe = state["recipe_sha256"]
        except Exception as error:
            # Of many kinds, and torch's own words recommend to load the file unsafely.
            raise DataError(f"{path} is damaged; start over with --fresh.") from error
        if recipe != self._recipe:
            raise DataError(
                f"{self.path} holds a run of another recipe (experiment, cache or options differ). "
                "Name another folder with --run, or start over in this one with --fresh."
            )
        if len(self.events()) < state["next_epoch"]:
            raise DataError(
                f"{self.path / EVENTS_FILE} is shorter than the run it logs; it was edited or "
                "removed. Put it back, or start over with --fresh."
            )
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        return int(state["next_epoch"])

    def clear(self) -> None:
        """Forget an earlier run and the checkpoint it left."""
        for name in (CONFIG_FILE, STATE_FILE, EVENTS_FILE):
            (self.path / name).unlink(missing_ok=True)

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Log one finished epoch; lines of the same or a later epoch, left by a killed run, go."""
        earlier = [line for line in self.events() if line["epoch"] < event["epoch"]]
        text = "".join(json.dumps(line) + "\n" for line in [*earlier, event])
        atomic_write(self.path / EVENTS_FILE, text.encode())

    def events(self) -> list[dict[str, Any]]:
        """Finished epochs, in order."""
        return read_events(self.path)


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The log of a run folder, one object per finished epoch; empty if there is none."""
    path = folder / EVENTS_FILE
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); start over with --fresh.") from error
