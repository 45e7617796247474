"""What one of several training processes reads; imports no torch, so that many start quickly."""

from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from reskd.teacher_cache.read.reader import CacheReader

NAMES = ("features", "feature_residual", "frames", "logits", "views")


def rows_of(
    reader: CacheReader, view: int, videos: Sequence[int]
) -> dict[str, NDArray[np.generic]]:
    """All arrays of some videos, batch by batch as training reads them."""
    batches = [videos[start : start + 2] for start in range(0, len(videos), 2)]
    return {
        name: np.concatenate(
            [
                reader.gather(name, [view] * len(batch), batch, reader.empty(name, len(batch)))
                for batch in batches
            ]
        )
        for name in NAMES
    }


def send_rows(
    reader: CacheReader, view: int, order: list[int], rank: int, world: int, pipe: Connection
) -> None:
    """Read one process's share of an epoch's order, and send it to the parent."""
    pipe.send(rows_of(reader, view, order[rank::world]))
    pipe.close()
