"""Which arrays a store has: names, shapes and types, known before any network runs.

Free of torch, so that a store can be checked where torch is not installed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

AVERAGED_STEPS: Final = "averaged_steps"
"""Attribute of feature arrays; absent where every step is stored."""
Grid = tuple[int, int]
Row = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array of the store; its shape there is (V, N, *row_shape)."""

    name: str
    """Name of the array."""
    row_shape: tuple[int, ...]
    """Shape of what one view occupies."""
    dtype: str
    """numpy name of the number type."""
    attributes: dict[str, Any] = field(default_factory=dict, hash=False)
    """What a reader must know beyond shape and type; also the Zarr array's attributes. As JSON
    gives it back: lists and no tuples, for specs are compared after having been a file."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one view's row."""
        return prod(self.row_shape) * np.dtype(self.dtype).itemsize


def averaged_steps(arrays: Iterable[ArraySpec]) -> int:
    """Time steps of the teacher's feature map of which each stored one is the mean."""
    return max((int(array.attributes.get(AVERAGED_STEPS, 1)) for array in arrays), default=1)


def array_in_words(array: ArraySpec | None) -> str:
    """An array for a person."""
    if array is None:
        return "nothing"
    shape = " x ".join(map(str, array.row_shape)) or "one number"
    more = ", ".join(f"{key} {value}" for key, value in sorted(array.attributes.items()))
    return f"{shape} {array.dtype}{f' ({more})' if more else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetPlan:
    """All arrays of an experiment's cache and the grids they were made for."""

    arrays: tuple[ArraySpec, ...]
    """In the order they are written."""
    teacher_grid: Grid
    """Height and width of the teacher's feature map."""
    feature_grid: Grid
    """Height and width of the stored feature map."""
    student_size: int
    """Side of the student's frames in pixels."""
