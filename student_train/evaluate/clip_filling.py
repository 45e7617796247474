"""Test clips cut and kept: may they be, and who of several processes cuts which."""

import shutil
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import cache, partial
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from reskd.common.console import progress, say
from reskd.common.dataset.index import VideoEntry
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.prefetch import ordered_map
from reskd.common.signals import StopRequest
from reskd.common.storage.records import digest
from reskd.common.video.eval_views import crop_side, num_views
from reskd.common.video.preprocess import PREPROCESSING_VERSION
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.clip_reader import decode_threads
from reskd.student_train.evaluate.videos import Videos
from reskd.teacher_cache.clip_store import ClipStore
from reskd.teacher_cache.format.identity import Identity, pixels_identity
from reskd.teacher_cache.format.plan import shown_bytes

FREE_SPACE_FACTOR: Final = 1.2
"""Times what is to be written that must be free."""


class Begun(NamedTuple):
    """What the first of several processes has found."""

    readable: bool = False
    missing: tuple[int, ...] = ()
    """Units to be filled, empty where they cannot be."""


def check_keeping(videos: Videos, keeping: ClipKeeping | None) -> None:
    """Refuse a folder that was named for clips, before hours of work, if they cannot be kept there.

    Raises:
        DataError: If it holds others, or they take more than may be kept, or there are several
            views of a video.
    """
    if keeping is None or keeping.folder is None:
        return
    if (views := num_views(videos.reading.evaluation)) != 1:
        raise DataError(
            f"--clips-store keeps one view of every video, and this protocol has {views}; leave "
            "the option out."
        )
    store = store_of(videos, keeping)
    if problem := store.problem() or _too_large(store, keeping.most_gb):
        raise DataError(f"{problem}.")


def store_of(videos: Videos, keeping: ClipKeeping) -> ClipStore:
    """The store of a split at the size of a network's frames."""
    reading = videos.reading
    return ClipStore(
        keeping.folder_for(videos.index_path) / f"{quote(videos.split, safe='')}-{reading.size}px",
        _identity(videos),
        clip_shape=(reading.clip.num_frames, 3, reading.size, reading.size),
        num_videos=len(videos.entries),
    )


def _identity(videos: Videos) -> Identity:
    """Everything that decides the clips, labels and classes apart."""
    reading, entries = videos.reading, videos.entries
    return {
        "clip": asdict(reading.clip),
        "test_view": {
            "short_side": reading.evaluation.short_side or reading.views.short_side,
            "crop": crop_side(reading.views, reading.evaluation),
            "cut_size": reading.cut_size,
            "size": reading.size,
        },
        "index": {
            "use": "test clips",
            "split": videos.split,
        },
        "entries": digest([_known_by(entry) for entry in entries]),
        "decoder": pixels_identity(videos.data, videos.index, videos.split),
        "preprocessing": PREPROCESSING_VERSION,
    }


def _known_by(entry: VideoEntry) -> list[Any]:
    """What a video is known by, its labels apart."""
    content = None if entry.content is None else asdict(entry.content)
    return [entry.id, entry.path, entry.num_frames, content]


def begin(store: ClipStore, keeping: ClipKeeping, lock: ExitStack) -> Begun:
    """Make the store if need be, and hold it while units are missing."""
    advice = "Clips are cut from the videos; remove it, or name another folder with --clips-store."
    if problem := store.problem():
        say_once(f"{problem}. {advice}")
        return Begun()
    if not store.missing_units():
        return Begun(readable=True)
    problem = _too_large(store, keeping.most_gb)
    try:
        if problem is None:
            if not store.exists:
                _create(store)
            lock.enter_context(store.held())
            return Begun(readable=True, missing=tuple(store.missing_units()))
    except StoppedShortError:
        problem = f"another process is filling {store.folder}"
    except OSError as error:
        problem = f"test clips cannot be kept: {error}"
    say_once(f"{problem.removesuffix('.')}. Clips that are not kept are cut from the videos.")
    return Begun(readable=store.exists)


def _create(store: ClipStore) -> None:
    try:
        store.create()
    except OSError:
        if not store.exists or store.problem():
            raise
        return  # another process was faster
    say(
        f"test clips are kept in {store.folder}, {shown_bytes(store.num_bytes())}, for later "
        "measurements; --clips-store-gb 0 keeps none"
    )


def _too_large(store: ClipStore, most_gb: float) -> str | None:
    """Why what is missing may not be written."""
    missing = store.missing_units()
    if not missing:
        return None
    others = [
        path.stat().st_size
        for folder in store.neighbours()
        for path in folder.rglob("*")
        if path.is_file()
    ]
    total, need = sum(others) + store.num_bytes(), store.num_bytes(missing)
    if total > most_gb * 1e9:
        return (
            f"{store.folder.parent} would take {shown_bytes(total)} with the test clips of "
            f"{store.folder.name}, more than the {most_gb:g} GB of --clips-store-gb"
        )
    there = next(path for path in (store.folder, *store.folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < FREE_SPACE_FACTOR * need:
        return (
            f"there is no space for {store.folder}: {shown_bytes(need)} are to be written, "
            f"{FREE_SPACE_FACTOR} times that must be free, and {shown_bytes(free)} are"
        )
    return None


def fill(
    store: ClipStore,
    units: tuple[int, ...],
    videos: Videos,
    processes: ProcessGroup,
    stop: StopRequest,
) -> None:
    """Cut and keep the clips of some units."""
    if not units:
        return
    numbers = store.videos_of(units)

    def rows() -> Generator[Mapping[str, NDArray[Any]] | str, None, None]:
        shown = processes.is_first
        with (
            closing(ordered_map(partial(_row, videos), numbers, threads=decode_threads())) as ready,
            progress("keeping test clips", len(numbers), unit="videos", shown=shown) as advance,
        ):
            for row in ready:
                if stop.made:
                    return
                yield row
                advance()

    with closing(rows()) as cut:
        try:
            store.fill(units, cut)
        except OSError as error:
            say_once(f"test clips cannot be kept: {error}. They are cut from the videos.")


def source_of(videos: Videos, number: int) -> NDArray[np.int64]:
    """Size and time of a video's file, or of its folder of images; zeros where there is none.

    Of frames that a frame store keeps, the store's identity says all.
    """
    if videos.data.frames is not None:
        return np.zeros(2, np.int64)
    try:
        state = videos.index.path_of(videos.entries[number]).stat()
    except OSError:
        return np.zeros(2, np.int64)
    return np.array([state.st_size, state.st_mtime_ns], np.int64)


def _row(videos: Videos, number: int) -> Mapping[str, NDArray[Any]] | str:
    """What is kept of a video, or the reason why that is nothing."""
    source = source_of(videos, number)  # before: who replaces it meanwhile has replaced it
    clips = videos.cut(number)
    return clips if isinstance(clips, str) else {"frames": clips.numpy(), "source": source[None]}


@cache
def say_once(text: str) -> None:
    """A line that would come at every measurement of a run."""
    say(text)
