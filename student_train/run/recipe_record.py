"""Which run a folder holds: the recipe noted with its states, or its checkpoint, in words."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from reskd.common.errors import DataError
from reskd.common.models.checkpoint import read_checkpoint_info
from reskd.common.models.checkpoint_record import CONFIG_FILE
from reskd.common.parsing.json_text import parse_json, read_json
from reskd.common.storage.records import canonical_json, digest

RECIPE_FILE: Final = "recipe.json"
"""In every state, beside its weights."""
OTHER_CHECKPOINT: Final = "it holds a checkpoint that was not trained here"
_IN_WORDS: Final = {
    "index": "the training videos, their labels or the classes",
    "videos": "which of the videos are trained on",
    "answers.teacher": "whether the teacher is cached or runs in the step",
    "answers.fingerprint": "the teacher cache",
    "arrays": "the teacher's targets",
}
"""What stands in a recipe as a digest or at length."""


def recipe_record(recipe: Mapping[str, Any]) -> bytes:
    """A recipe as a state keeps it: JSON, long lists of videos by their digest."""
    return canonical_json({**recipe, "videos": digest(recipe.get("videos"))}) + b"\n"


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """What a state keeps; None of states that are damaged or from before recipes were kept."""
    try:
        recipe = read_json(folder / RECIPE_FILE)
    except (OSError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) else None


def checkpoint_difference(folder: Path, wanted: Mapping[str, Any]) -> str:
    """In what the run that left a checkpoint differs; empty where it does not, as far as it says.

    Args:
        folder: With or without a checkpoint.
        wanted: Recipe of the run to come.
    """
    if not (folder / CONFIG_FILE).exists():
        return ""
    try:
        info = read_checkpoint_info(folder)
    except DataError:
        return OTHER_CHECKPOINT
    if info.role != wanted["role"]:
        return _difference_text("role", info.role, wanted["role"])
    if not info.experiment:
        return OTHER_CHECKPOINT
    recorded = dict(_leaves(info.experiment))
    for key in ("clip", "views", info.role):
        for path, value in _leaves(parse_json(canonical_json(wanted[key])), f"{key}."):
            if recorded.get(path, value) != value and not path.endswith("model.start"):
                return _difference_text(path, recorded[path], value)
    return ""


def first_difference(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first key in which two recipes differ, the role before all; empty where none does."""
    left, right = dict(_leaves(recorded)), dict(_leaves(parse_json(recipe_record(wanted))))
    for path in sorted({*left, *right}, key=lambda path: (path != "role", path in _IN_WORDS)):
        if left.get(path) != right.get(path):
            return _difference_text(path, left.get(path), right.get(path))
    return ""


def more_epochs(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> int | None:
    """Epochs of a recorded recipe that is the wanted one but for fewer epochs; else None."""
    role = wanted["role"]
    try:
        before, after = (tree[role]["training"]["epochs"] for tree in (recorded, wanted))
    except KeyError:  # another role's
        return None
    training = {**recorded[role]["training"], "epochs": after}
    as_wanted = {**recorded, role: {**recorded[role], "training": training}}
    return before if before < after and not first_difference(as_wanted, wanted) else None


def _difference_text(path: str, recorded: Any, wanted: Any) -> str:
    if path in _IN_WORDS:
        return f"{path}: {_IN_WORDS[path]}"
    return f"{path}: the folder has {_shown(recorded)}, this run {_shown(wanted)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 90 else f"{text[:87]}…"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
