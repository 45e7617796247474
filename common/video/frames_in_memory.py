"""A video whose frames are an array."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reskd.common.errors import DataError


@dataclass(frozen=True, slots=True)
class FramesInMemory:
    """A video whose frames are all in memory; read like any other `VideoReader`."""

    all_frames: NDArray[np.uint8]
    """(N, H, W, 3) RGB."""
    fps: float

    def __post_init__(self) -> None:
        shape, dtype = self.all_frames.shape, self.all_frames.dtype
        if len(shape) != 4 or shape[3] != 3 or not all(shape) or dtype != np.uint8:
            raise DataError(
                f"frames must be RGB, uint8 of shape (N, H, W, 3), got {dtype} of shape {shape}"
            )

    @property
    def num_frames(self) -> int:
        return len(self.all_frames)

    @property
    def height(self) -> int:
        return int(self.all_frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.all_frames.shape[2])

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """See VideoReader.frames."""
        return self.all_frames[list(indices)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None
