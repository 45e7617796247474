"""Files of class names.

A data set's is taken in every form in which such lists circulate: one name per line, numbers in
front, in quotes, labels.json of Something-Something V2. A checkpoint's has a name on each line,
taken as it is.
"""

import re
from pathlib import Path

from reskd.common.dataset.importing.annotations import json_value, numbered_lines, read_text
from reskd.common.dataset.importing.formats.sthv2_json import is_labels, parse_labels
from reskd.common.errors import DataError

NUMBERED = re.compile(r"(\d+)(?:\s*[,;]\s*|\s+)(.+)")
HEADERS = {"id,name"}
"""First line of the label tables of Kinetics that circulate."""


def read_class_list(path: Path) -> tuple[str, ...]:
    """Read the class list of a data set.

    Raises:
        DataError: If it cannot be read or is no list of different names.
    """
    return parse_class_list(read_text(path), str(path))


def parse_class_list(text: str, source: str) -> tuple[str, ...]:
    """Class names in the order of their labels.

    `0 name` and `1 name` are lines of a numbered list only if every line is one and the numbers
    are 0, 1, 2 … or 1, 2, 3 …; "2 hands" may be the name of a class.

    Args:
        text: The file.
        source: Its name, for messages.

    Raises:
        DataError: If a name is there twice, or there is none.
    """
    if is_labels(text):
        return parse_labels(json_value(text, source), source)
    lines = list(numbered_lines(text))
    if lines and lines[0][1].lower() in HEADERS:
        del lines[0]
    if not lines:
        raise DataError(f"{source} holds no class names; one per line is expected")
    matches = [match for _, line in lines if (match := NUMBERED.fullmatch(line))]
    numbers = sorted(int(match[1]) for match in matches)
    if len(matches) == len(lines) and numbers in (
        list(range(len(lines))),
        list(range(1, len(lines) + 1)),
    ):
        by_number = sorted(matches, key=lambda match: int(match[1]))
        names = tuple(_unquoted(match[2]) for match in by_number)
    else:
        names = tuple(_unquoted(line) for _, line in lines)
    first_line: dict[str, int] = {}
    for (number, _), name in zip(lines, names, strict=True):
        if first_line.setdefault(name, number) != number:
            raise DataError(f"{source} names class {name!r} twice; each needs a name of its own")
    return names


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the class names of a checkpoint, one per line in the order of its scores.

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


def _unquoted(name: str) -> str:
    quoted = len(name) > 1 and name[0] == name[-1] == '"'
    return name[1:-1].replace('""', '"') if quoted else name
