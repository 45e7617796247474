"""Videos that lie where only the user's code finds them: in tars, lmdb, arrays, a service.

`data.reader: "package.module:name"` names what is called once in a process with the folder that the
index calls its root. What comes back, the shelf of videos, has

    videos()       of each video (key, class name or list of them, split), for the import
    open(key)      a video: num_frames, height, width, fps (0.0 where unknown), and
                   frames(indices): (len(indices), H, W, 3) uint8 RGB of frame numbers that are
                   sorted and distinct

`open` and `frames` are called by several threads at once, and in processes that have each a shelf
of their own. An OSError they raise is the system's: they are called again, and at last the command
stops. Whatever else they raise makes a video unreadable, as a damaged file is: it is left out,
named, and counted.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from reskd.common.dataset.content import ContentFacts
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.own_code import own_code
from reskd.common.storage.system_errors import ABSENT, errno_text, remedy
from reskd.common.video.attempts import WAITS_SECONDS
from reskd.common.video.frame_reader import FrameReader
from reskd.common.video.reader import UnreadableVideoError

T = TypeVar("T")


class ShelvedVideo(Protocol):
    """A video as the user's code opens it."""

    num_frames: int
    height: int
    width: int
    fps: float

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """(len(indices), H, W, 3) RGB of sorted, distinct frame numbers."""


class Shelf(Protocol):
    """Where the user's videos are."""

    def videos(self) -> Iterable[tuple[str, str | Sequence[str], str]]:
        """Key, class or classes, and split of each."""

    def open(self, key: str) -> ShelvedVideo:
        """One of them."""


class OwnReader(FrameReader):
    """A video of the user's shelf, checked as any other."""

    limit = "the video has {} frames; if it was replaced since it was imported, import it again"

    def __init__(self, path: Path, decoder: str, video: ShelvedVideo) -> None:
        self.decoder, self._video = decoder, video
        super().__init__(
            path,
            num_frames=int(video.num_frames),
            height=int(video.height),
            width=int(video.width),
            fps=float(getattr(video, "fps", 0.0)),
        )
        if min(self.num_frames, self.height, self.width) < 1:
            raise self._unreadable(
                f"it says {self.num_frames} frames of {self.height} x {self.width}"
            )

    def _decode(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        frames: object = self._video.frames(positions)
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            got = getattr(frames, "dtype", type(frames).__name__)
            raise self._unreadable(f"frames must be a numpy array of uint8, got {got}")
        return frames

    def settled(self, ask: Callable[[], T]) -> T:
        return _settled(ask, self.path, self.decoder)


def shelf_of(reader: str, root: Path) -> Shelf:
    """What the user's code makes of the root of an index, once in a process.

    Raises:
        ExperimentError: If there is no such code, or it is not trusted.
        DataError: If it fails.
    """
    return _made_once(own_code("readers", reader), reader, root)


@lru_cache(maxsize=8)
def _made_once(make: Callable[[Path], Shelf], reader: str, root: Path) -> Shelf:
    try:
        shelf = make(root)
    except Exception as error:
        raise DataError(f"{reader}({str(root)!r}) fails: {_words(error)}") from error
    for name in ("videos", "open"):
        if not callable(getattr(shelf, name, None)):
            raise DataError(
                f"{reader}({str(root)!r}) gives {type(shelf).__name__}, which has no {name}(): "
                "common/dataset/own_reader.py says what a shelf of videos has."
            )
    return shelf


def open_shelved(reader: str, root: Path, key: str) -> OwnReader:
    """Open one video of a shelf; usable in a `with` statement.

    Raises:
        UnreadableVideoError: If the user's code cannot.
        StoppedShortError: If the system cannot.
        ExperimentError, DataError: See `shelf_of`.
    """
    shelf, path = shelf_of(reader, root), root / key
    return _settled(lambda: OwnReader(path, reader, shelf.open(key)), path, reader)


def shelved_content(video: OwnReader) -> ContentFacts:
    """What tells it from others: its first and its last frame.

    Raises:
        UnreadableVideoError: If they cannot be read.
    """
    ends = sha256()
    for frame in video.frames(sorted({0, video.num_frames - 1})):
        ends.update(np.ascontiguousarray(frame).data)
    return ContentFacts(
        bytes=video.num_frames * video.height * video.width * 3,
        sha256=ends.hexdigest(),
        width=video.width,
        height=video.height,
    )


def _settled(ask: Callable[[], T], path: Path, reader: str) -> T:
    """What the user's code answers, once it is clear whose failure a failure is."""
    waits = iter(WAITS_SECONDS)
    while True:
        try:
            return ask()
        except (UnreadableVideoError, StoppedShortError):
            raise
        except Exception as error:
            if not isinstance(error, OSError) or error.errno in ABSENT:
                raise UnreadableVideoError(path, reader, _words(error)) from error
            if (wait := next(waits, None)) is None:
                raise StoppedShortError(
                    f"the system failed: {reader} cannot read {path}: {errno_text(error)}, also "
                    f"{sum(WAITS_SECONDS):g} s later. Nothing is recorded of it. "
                    f"{remedy(error.errno)} and run the same command again; it goes on."
                ) from error
            time.sleep(wait)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
