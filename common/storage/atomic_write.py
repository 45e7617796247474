"""Files that appear on disk whole or not at all, and stay there after a power cut."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_SUFFIX = ".partial"


def atomic_write(path: Path, chunks: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Write a file under a partial name, sync it, rename it, sync its folder.

    Args:
        path: Final name; its folder is made if absent. An existing file is replaced.
        chunks: The content, in one piece or in several written one after another.

    Raises:
        OSError: As the system reports it (no space left, no permission); the partial file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process number keeps two writers of one name from mixing their bytes. One that was killed
    # may have had the same number, as in containers: what it left is written over.
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    pieces = [chunks] if isinstance(chunks, bytes | memoryview) else chunks
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)  # the system does not say which file was being written
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
        path: Final name; must not exist. Its parent is made if absent.

    Yields:
        The folder to fill. What the block writes there is to be synced by itself (`atomic_write`).
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    # Of a killed process that had the same number: in a container a program often has no other.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(path.parent)
