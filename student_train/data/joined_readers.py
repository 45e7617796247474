"""Rows of several caches that hold the same views of the same videos, as if they were one cache's.

An array of the second teacher's cache is called `2/logits`, of the third one's `3/logits`; those of
the first keep their names. Videos go by the rows of the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reskd.common.distill.arrays import ArraySpec, Grid
from reskd.teacher_cache.read.reader import CacheReader


@dataclass(frozen=True, kw_only=True, slots=True)
class MoreCache:
    """What a further teacher says of the videos of the first one's cache."""

    number: int
    """Which teacher, from 2."""
    reader: CacheReader
    arrays: tuple[ArraySpec, ...]
    """What its losses need, by the names they have in it."""
    rows: Mapping[int, int]
    """Row of a video in the first cache to its row here."""
    columns: tuple[int, ...] | None
    """For each class of the index its place in the stored scores; None where that is the same."""

    @property
    def names(self) -> list[str]:
        """Its arrays, as they are called beside those of other caches."""
        return [f"{self.number}/{array.name}" for array in self.arrays]

    @property
    def teacher_grid(self) -> Grid:
        """Grid of the teacher's own feature map."""
        return self.reader.manifest.teacher_grid


def own_name(name: str) -> tuple[int, str]:
    """Which teacher's array this is, from 1, and what it is called in its cache."""
    number, slash, own = name.rpartition("/")
    return (int(number), own) if slash else (1, own)


class JoinedReaders:
    """Reads rows as a CacheReader does, from several.

    Args:
        first: Of the first cache.
        more: The others.
    """

    def __init__(self, first: CacheReader, more: Sequence[MoreCache]) -> None:
        self._first, self._more = first, {cache.number: cache for cache in more}

    def empty(self, name: str, count: int) -> NDArray[Any]:
        """As of CacheReader."""
        number, own = own_name(name)
        reader = self._first if number == 1 else self._more[number].reader
        return reader.empty(own, count)

    def gather(
        self, name: str, views: Sequence[int], videos: Sequence[int], out: NDArray[Any]
    ) -> NDArray[Any]:
        """As of CacheReader."""
        number, own = own_name(name)
        if number == 1:
            return self._first.gather(own, views, videos, out)
        cache = self._more[number]
        return cache.reader.gather(own, views, [cache.rows[video] for video in videos], out)

    def expect(self, names: Sequence[str], view: int, videos: Sequence[int]) -> None:
        """As of CacheReader."""
        named = [own_name(name) for name in names]
        self._first.expect([own for number, own in named if number == 1], view, videos)
        for number, cache in self._more.items():
            rows = [cache.rows[video] for video in videos]
            cache.reader.expect([own for of, own in named if of == number], view, rows)


def views_differ(first: CacheReader, other: MoreCache, videos: Sequence[int]) -> str | None:
    """The first of some videos whose stored views are not the same in both caches, in words."""
    joined, views = JoinedReaders(first, [other]), range(first.manifest.layout.num_views)
    for view in views[: other.reader.manifest.layout.num_views]:
        rows = [
            joined.gather(name, [view] * len(videos), videos, joined.empty(name, len(videos)))
            for name in ("views", f"{other.number}/views")
        ]
        if rows[0].shape != rows[1].shape:
            return f"views: rows of {rows[1].shape[1]} numbers against {rows[0].shape[1]}"
        unequal = np.flatnonzero((rows[0] != rows[1]).any(axis=1))
        if unequal.size:
            return f"views: view {view} of the video in row {videos[unequal[0]]}"
    return None
