"""The folder that an import makes: it must be free, and it appears whole."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reskd.common.errors import DataError
from reskd.common.storage.atomic_write import atomic_folder


def check_free(folder: Path) -> None:
    """Refuse a folder that is in use, before anything is read.

    Raises:
        DataError: If there is something in its place other than an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _taken(folder)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """As `atomic_folder`, of which another process may be the faster one.

    Raises:
        DataError: If there is something in its place by now.
    """
    try:
        with atomic_folder(folder) as partial:
            yield partial
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise _taken(folder) from error


def _taken(folder: Path) -> DataError:
    return DataError(f"{folder} exists already. Name a new folder, or remove it first.")
