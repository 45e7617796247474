"""A list of class names: a text file, one name per line, in the order of the scores."""

from pathlib import Path

from common.errors import DataError


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the names.

    Raises:
        DataError: If the file cannot be read, is empty, or has an empty line before its end.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(f"the class names {path} cannot be read: {error.strerror}") from error
    names = [line.strip() for line in text.rstrip().split("\n")]
    if "" in names:
        raise DataError(
            f"line {names.index('') + 1} of {path} is empty. Expected is one class name per line."
        )
    return tuple(names)
