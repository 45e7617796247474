"""Files that appear on disk whole or not at all, and stay there after a power cut."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reskd.common.storage.partial import clear_beside, partial_name
from reskd.common.storage.system_errors import writing


def atomic_write(path: Path, chunks: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Write a file under a partial name, sync it, rename it, sync its folder.

    What dead writers left in that folder is removed the first time a process writes there.

    Args:
        path: Final name; its folder is made if absent. An existing file is replaced.
        chunks: The content, in one piece or in several written one after another.

    Raises:
        OSError: As the system reports it (no space left, no permission); the partial file is gone.
    """
    put_in_place(write_partial(path, chunks), path)


def write_partial(path: Path, chunks: bytes | memoryview | Iterable[bytes | memoryview]) -> Path:
    """The first half of `atomic_write`: the file is on the disk, under a partial name.

    Returns:
        That name, for `put_in_place`.
    """
    partial = partial_name(path)
    pieces = [chunks] if isinstance(chunks, bytes | memoryview) else chunks
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_beside(path.parent)
        try:
            with partial.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):  # the first failure is the one to tell
                partial.unlink()
            raise
    return partial


def put_in_place(partial: Path, path: Path) -> None:
    """The second half: the file gets its name."""
    with writing(path):
        try:
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a partial name; it gets its name when the block ends without an error.

    Args:
        path: Final name; must not exist, or be an empty folder. Its parent is made if absent.

    Yields:
        The folder to fill. What the block writes there is to be synced by itself (`atomic_write`).
    """
    clear_beside(path.parent)
    partial = partial_name(path)
    with writing(path):
        partial.mkdir(parents=True)
        try:
            yield partial
            partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(path.parent)
