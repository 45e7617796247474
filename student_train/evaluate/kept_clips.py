"""Test clips by video number: kept ones where there are, else cut from the video.

The clips of one view per video are the same whatever network is measured, so they are cut once and
kept (teacher_cache/clip_store.py). What comes out never depends on what is kept: a row counts only
if its checksum is right and the video's file is the one that it was cut from, and a video that
could not be read is tried again. Whatever stands in the way of keeping is said once, and clips are
cut as if nothing were kept.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from reskd.common.console import say
from reskd.common.errors import CacheError
from reskd.common.signals import StopRequest
from reskd.common.video.eval_views import num_views
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_filling import Begun, begin, fill, source_of, store_of
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.videos import Videos
from reskd.teacher_cache.clip_store import ClipStore
from reskd.teacher_cache.read.reader import CacheReader

ClipsOf = Callable[[int], Tensor | str]
"""From a video's number to its clips, (V, T, 3, s, s) uint8, or to the reason why there are none.
May be called by several threads at once."""


@contextmanager
def clip_source(
    videos: Videos, keeping: ClipKeeping | None, processes: ProcessGroup, stop: StopRequest
) -> Iterator[ClipsOf]:
    """The way to the clips of some videos; what is not kept yet is first.

    Several processes share that work out by units of the store.

    Raises:
        PreemptedError, KeyboardInterrupt: In all processes, if one was asked to stop meanwhile;
            finished units are kept.
    """
    # Whether a video of the user's own reader has changed cannot be looked at.
    once = videos.data.reader is not None
    if keeping is None or once or num_views(videos.reading.evaluation) != 1:
        yield videos.cut
        return
    store = store_of(videos, keeping)
    with ExitStack() as lock:
        found = begin(store, keeping, lock) if processes.is_first else Begun()
        begun = processes.all_of(found)[0]
        readable = begun.readable and store.exists and store.problem() is None
        # Processes on other machines may see no store, or one of their own.
        if all(processes.all_of(readable)):
            fill(store, begun.missing[processes.rank :: processes.world], videos, processes, stop)
        if processes.any(stop.made)[0]:  # and nobody goes on before all have come here
            raise stop.error()
    if not readable:
        yield videos.cut
        return
    with CacheReader(store.folder) as reader:
        yield _KeptClips(store, reader, videos)


class _KeptClips:
    """Clips of a store, in which nothing is trusted that can be looked at."""

    def __init__(self, store: ClipStore, reader: CacheReader, videos: Videos) -> None:
        self._store, self._reader, self._videos = store, reader, videos
        self._kept = frozenset(reader.usable_videos)
        self._given_up: set[int] = set()
        self._lock = Lock()

    def __call__(self, number: int) -> Tensor | str:
        in_quarantine = self._videos.entries[number].id in self._videos.index.quarantine
        if number in self._kept and not in_quarantine:
            kept = self._read(number)
            if kept is not None:
                return kept
        clips = self._videos.cut(number)
        if number in self._reader.failed and not isinstance(clips, str):
            self._give_up(number, "a video can be read that could not be read before")
        return clips

    def _read(self, number: int) -> Tensor | None:
        """A row of the store that is sound and up to date."""
        try:
            source, frames = (
                self._reader.gather(name, [0], [number], self._reader.empty(name, 1))
                for name in ("source", "frames")
            )
        except CacheError as error:
            self._give_up(number, str(error))
            return None
        if not np.array_equal(source[0], source_of(self._videos, number)):
            self._give_up(number, "a video has changed since its clip was kept")
            return None
        return torch.from_numpy(frames)

    def _give_up(self, number: int, why: str) -> None:
        """Have the unit of a video written anew by the next measurement."""
        unit, _ = self._reader.manifest.layout.locate(number)
        with self._lock:
            if unit in self._given_up:
                return
            self._given_up.add(unit)
        say(f"{self._store.folder}: {why}. Unit {unit} is kept anew by the next measurement.")
        self._store.give_up(unit)
