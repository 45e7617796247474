"""What a frame store says of its videos and their frames, as objects and as rows of its tables."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

ROW: Final = np.dtype(
    [("offset", "<i8"), ("size", "<u4"), ("crc32c", "<u4"), ("source", "<i4")], align=False
)
"""One kept frame: where its image starts, its bytes and their crc32c, its number in the video."""

Rows = NDArray[np.void]

VIDEO: Final = np.dtype(
    [
        *(("first_frame", "<i8"), ("num_frames", "<i4"), ("height", "<i4"), ("width", "<i4")),
        *(("fps", "<f8"), ("source_frames", "<i4"), ("source_fps", "<f8")),
        *(("digest", "S64"), ("rows_crc32c", "<u4")),
    ]
)
"""One video: its first ROW among those of its file, its facts, and the crc32c of all its ROWs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFacts:
    """One video of a store."""

    id: str
    num_frames: int = 0
    """Kept frames."""
    height: int = 0
    """Of the images."""
    width: int = 0
    fps: float = 0.0
    """Kept frames per second, averaged; 0.0 where nobody said."""
    source_frames: int = 0
    """Frames of the video itself."""
    source_fps: float = 0.0
    digest: str = "failed"
    """sha256 of the images and of the facts above that pixels and views depend on."""
    failure: str = ""
    """Why nothing is kept; empty if all went well."""


_NUMBERS = ("num_frames", "height", "width", "fps", "source_frames", "source_fps")


def video_row(facts: StoredFacts, rows: Rows, first_frame: int) -> tuple[Any, ...]:
    """A video as VIDEO holds it, but for its two texts."""
    numbers = (getattr(facts, name) for name in _NUMBERS)
    return (first_frame, *numbers, facts.digest.encode(), crc32c(rows.tobytes()))


def facts_of_row(row: np.void, *, video_id: str, failure: str) -> StoredFacts:
    """What `video_row` was made from."""
    numbers = {name: row[name].item() for name in _NUMBERS}
    return StoredFacts(id=video_id, failure=failure, digest=row["digest"].decode(), **numbers)
