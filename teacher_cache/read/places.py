"""Where rows lie, for many at once: the arithmetic of format/layout.py over arrays of numbers."""

import numpy as np
from numpy.typing import NDArray

from reskd.teacher_cache.format.layout import Layout

Numbers = NDArray[np.int64]


class RowPlaces:
    """Numbers of objects, and places in them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._videos_of = np.full(layout.num_units, layout.unit_videos, np.int64)
        self._videos_of[-1] = len(layout.videos_of(layout.num_units - 1))
        for start, stop in layout.absent:
            self._videos_of[stop // layout.unit_videos - 1] -= stop - start

    def of(self, views: Numbers, videos: Numbers) -> tuple[Numbers, Numbers]:
        """Number of each row's object (block times units, plus unit), and place of each row in it.

        Rows follow each other view by view.
        """
        layout = self._layout
        blocks, units = views // layout.block_views, videos // layout.unit_videos
        places = (views - blocks * layout.block_views) * self._videos_of[units]
        places += videos - units * layout.unit_videos
        return blocks * layout.num_units + units, places
