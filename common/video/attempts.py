"""Whose failure it is when a video cannot be read: its file's, or that of the system below.

Decoders give text, and whatever exception their code happens to meet, so the kind of an error says
nothing. After any failure the file is read once whole, by plain reads, which only the system can
make fail:

    they fail                             the system: after a wait it is tried again, and at last
                                          the command stops; nothing is recorded of the video
    they succeed, the next attempt too    it has passed
    they succeed, the next attempt fails  damage: UnreadableVideoError, with the reason

A file that is not there is like damage, unless the place of all videos has gone with it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeVar

from reskd.common.errors import ReskdError, StoppedShortError
from reskd.common.storage.kinds import NotAFileError, open_file
from reskd.common.storage.system_errors import ABSENT, errno_text, remedy
from reskd.common.video.reader import UnreadableVideoError

T = TypeVar("T")

WAITS_SECONDS: Final = [0.5, 2.0, 6.0]
"""Before each further attempt where the system fails."""
SPARE_FILES: Final = 8
"""Held open beside the file that is read: a decoder opens more than one."""
BLOCK_BYTES: Final = 1 << 20
_devices: Final[dict[Path, int]] = {}
"""Of the folders of videos that this process has used."""


def settled(ask: Callable[[], T], path: Path, decoder: str, root: Path | None = None) -> T:
    """Ask something of a video until it is clear whose failure a failure is.

    Args:
        ask: One attempt, from its beginning; may raise anything.
        path: The file, or the folder whose files are the video.
        decoder: Who reads, for messages.
        root: Where all videos are; None where this one was named by itself.

    Raises:
        UnreadableVideoError: If the file is damaged or missing.
        StoppedShortError: If the system cannot read it.
    """
    attempts = Attempts(path, decoder, root)
    while True:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - see above
            attempts.after(error)


class Attempts:
    """The attempts at one thing asked of one video; arguments as of `settled`."""

    def __init__(self, path: Path, decoder: str, root: Path | None = None) -> None:
        self._path, self._decoder, self._root = path, decoder, root
        self._waits = iter(WAITS_SECONDS)
        self._was_sound = False
        if root is not None:
            _look_at(root)

    def after(self, error: Exception) -> None:
        """Judge a failed attempt; comes back if there is to be another one.

        Raises:
            UnreadableVideoError: If the file is damaged or missing.
            StoppedShortError: If the system cannot read it.
        """
        if isinstance(error, ReskdError) and not isinstance(error, UnreadableVideoError):
            raise error
        try:
            read_whole(self._path)
        except OSError as trouble:
            self._blame(trouble)
            return
        if self._was_sound:
            raise self._damage(error) from error
        self._was_sound = True

    def _blame(self, trouble: OSError) -> None:
        """The file could not be read: wait for the system, or say that the file is missing."""
        lost = None
        if isinstance(trouble, NotAFileError):
            raise UnreadableVideoError(self._path, self._decoder, str(trouble.strerror)) from None
        if trouble.errno in ABSENT:
            lost = None if self._root is None else root_lost(self._root)
            if lost is None:
                raise UnreadableVideoError(
                    self._path, self._decoder, str(trouble.strerror)
                ) from None
        if (wait := next(self._waits, None)) is not None:
            time.sleep(wait)
            return
        todo = f"{lost}. Mount it" if lost else remedy(trouble.errno)
        raise StoppedShortError(
            f"the system failed: cannot read the video {self._path}: {errno_text(trouble)}, also "
            f"{sum(WAITS_SECONDS):g} s later. Nothing is recorded of it. {todo} and run the same "
            "command again; it goes on."
        ) from trouble

    def _damage(self, error: Exception) -> UnreadableVideoError:
        if isinstance(error, UnreadableVideoError):
            return error
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return UnreadableVideoError(self._path, self._decoder, reason)


def read_whole(path: Path) -> None:
    """Read a file, or every file of a folder, from beginning to end; nothing is kept.

    Raises:
        NotAFileError: If it is neither.
        OSError: As the system reports it.
    """
    if path.is_dir():
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.is_file():
                read_whole(Path(entry.path))
        return
    with ExitStack() as spare, open_file(path) as file:
        for _ in range(SPARE_FILES):
            spare.callback(os.close, os.dup(file.fileno()))
        while file.read(BLOCK_BYTES):
            pass


def root_lost(root: Path) -> str | None:
    """Why nothing below a folder can be there; None if the folder is as it was."""
    try:
        if next(_names(root), None) is None:
            return f"the place of all videos, {root}, is empty"
        if root.stat().st_dev != _devices.get(root, root.stat().st_dev):
            return f"the place of all videos, {root}, is on another device than it was"
    except OSError as error:
        return f"the place of all videos, {root}, is gone ({errno_text(error)})"
    return None


def _names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


def _look_at(root: Path) -> None:
    """Note the device of a folder when this process first sees it."""
    if root not in _devices:
        with suppress(OSError):
            _devices[root] = root.stat().st_dev
