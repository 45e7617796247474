"""Frame stores by path: packed or in folders, opened once per process."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from reskd.common.dataset.frames.folders import FolderStore
from reskd.common.dataset.frames.image_io import codec_identity
from reskd.common.dataset.frames.packed import PackedStore
from reskd.common.dataset.frames.synthetic import SYNTHETIC_SUFFIX, SyntheticStore
from reskd.common.dataset.frames.tables import StoredFacts
from reskd.common.errors import DataError
from reskd.common.storage.records import digest
from reskd.common.video.reader import UnreadableVideoError, VideoReader


class FrameStore(Protocol):
    """Frames of videos, by the ids of the index they were made from."""

    @property
    def files(self) -> Sequence[Path]:
        """Its files; of folders the record alone."""

    @property
    def plan(self) -> Mapping[str, Any]:
        """What it was made with (plan_record of plan.py)."""

    def all_facts(self) -> Iterator[StoredFacts]: ...
    def facts(self, video_id: str) -> StoredFacts | None: ...
    def video(self, facts: StoredFacts) -> VideoReader: ...


_Signature = tuple[int, int, int]
_opened: Final[dict[Path, tuple[_Signature, FrameStore]]] = {}
"""Per process. No lock: a fork while it is held would stall the child, and two threads that open
the same store at once merely read its tables twice."""


def open_store(path: Path) -> FrameStore:
    """Open a store, or return it as it is open already.

    Args:
        path: `frames.h5`, whether it is one file or the name of several, a folder of folders, or
            the description of made-up frames.

    Raises:
        DataError: If there is none, or it is not whole.
    """
    path = path.absolute()
    known = _opened.get(path)
    try:
        if known is not None and _signature(known[1]) == known[0]:
            return known[1]
    except FileNotFoundError:
        pass
    store = _opened_anew(path)
    _opened[path] = (_signature(store), store)
    return store


def _opened_anew(path: Path) -> FrameStore:
    if path.is_dir():
        return FolderStore(path)
    return SyntheticStore(path) if path.suffix == SYNTHETIC_SUFFIX else PackedStore(path)


def open_kept(path: Path, video_id: str) -> VideoReader:
    """One video of a store.

    Raises:
        UnreadableVideoError: If nothing of it could be kept, or what was kept is damaged.
        DataError: If the store was made without it.
    """
    store = open_store(path)
    facts = store.facts(video_id)
    if facts is None:
        raise _missing(path, [video_id])
    if facts.failure:
        raise UnreadableVideoError(path, "frame store", facts.failure)
    return store.video(facts)


def store_identity(path: Path, video_ids: Iterable[str]) -> dict[str, str]:
    """What decides the pixels of some videos read from a store; part of a cache's identity.

    Their order and everything kept of them count, other videos in the store do not; so a store may
    be moved, cut into other files, or made anew with more videos.

    Raises:
        DataError: If there is no such store, or it lacks some of them.
    """
    rows = [[video_id, own] for video_id, own in stored_digests(path, video_ids).items()]
    return {"frame_store": digest(rows), "images": images_identity(path)}


def stored_digests(path: Path, video_ids: Iterable[str]) -> dict[str, str]:
    """Digest of everything that decides the pixels of each of some videos, by id.

    Raises:
        DataError: If there is no such store, or it lacks some of them.
    """
    store = open_store(path)
    facts = {video_id: store.facts(video_id) for video_id in video_ids}
    if missing := [video_id for video_id, known in facts.items() if known is None]:
        raise _missing(path, missing)
    return {video_id: known.digest for video_id, known in facts.items() if known is not None}


def images_identity(path: Path) -> str:
    """How a store keeps its frames.

    Raises:
        DataError: If there is no such store.
    """
    return codec_identity(open_store(path).plan["image_format"])


def _missing(path: Path, ids: Sequence[str]) -> DataError:
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return DataError(
        f"the frame store {path} was made without video {ids[0]!r}{more}. Make one of the whole "
        "index under another name, `reskd dataset extract-frames INDEX --out FILE`, and name it in "
        "data.frames; or set data.frames to null to decode the videos themselves"
    )


def _signature(store: FrameStore) -> _Signature:
    """Changes when the file is replaced."""
    state = os.stat(store.files[0])  # noqa: PTH116 - once per video that is opened
    return state.st_ino, state.st_size, state.st_mtime_ns
