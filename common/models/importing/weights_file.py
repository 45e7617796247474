"""From a foreign file to one network's tensors: read, choose, take the prefixes off."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.models.importing.prefixes import strip_prefixes
from reskd.common.models.importing.safe_file import read_content
from reskd.common.models.importing.state_places import choose_state


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignWeights:
    """One network's tensors, and what else was in their file."""

    tensors: Mapping[str, Tensor]
    """By the network's own names, on the CPU."""
    left: tuple[str, ...]
    """Names of tensors that are not the network's."""
    placeholders: tuple[str, ...]
    """Classes and functions the file asked for and was not given."""


def read_weights(
    path: Path, *, weights: str | None = None, prefix: str | None = None
) -> ForeignWeights:
    """Read the weights of a .pth or .safetensors file.

    Args:
        path: A dict of tensors, or a dict that holds one under a key that programs use.
        weights: `raw`, `ema` or the place of the weights, where the file holds several.
        prefix: What the names of the network begin with; None tells by the names.

    Raises:
        DataError: If the file cannot be read, holds no named tensors, or several networks' and
            nobody says whose.
    """
    content, placeholders = read_content(path)
    try:
        state = choose_state(content, weights, path=path)
        stripped = strip_prefixes(state, prefix)
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    return ForeignWeights(tensors=stripped.tensors, left=stripped.left, placeholders=placeholders)
