"""Files of class names.

A data set's is taken in every form in which such lists circulate: one name per line, numbers in
front, in quotes, labels.json of Something-Something V2. A checkpoint's has a name on each line,
taken as it is.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reskd.common.dataset.importing.annotations import json_value, numbered_lines, read_text
from reskd.common.dataset.importing.formats.sthv2_json import is_labels, parse_labels
from reskd.common.errors import DataError
from reskd.common.storage.kinds import read_file
from reskd.common.storage.system_errors import input_problem

NUMBERED = re.compile(r"(?P<number>\d+)(?:\s*[,;:.)=]\s*|\s+)(?P<name>.+)")
NUMBERED_BEHIND = re.compile(r"(?P<name>.+?)(?:\s*[,;:=]\s*|\s+)(?P<number>\d+)")
JSON_LIST = re.compile(r'\s*\[\s*"')
HEADERS = {"id,name", "name,id", "label,name", "class,id", "id,class", "label,id", "id,label"}
"""First lines of the label tables that circulate, as Kinetics'."""


def read_class_list(path: Path) -> tuple[str, ...]:
    """Read the class list of a data set.

    Raises:
        DataError: If it cannot be read or is no list of different names.
    """
    return parse_class_list(read_text(path), str(path))


def parse_class_list(text: str, source: str) -> tuple[str, ...]:
    """Class names in the order of their labels.

    `0 name` and `name 0` are lines of a numbered list if every line is one and the numbers are
    0, 1, 2 … or 1, 2, 3 …; "2 hands" may be the name of a class. JSON is a list of names, or an
    object of names and numbers, either way round.

    Args:
        text: The file.
        source: Its name, for messages.

    Raises:
        DataError: If a name is there twice, there is none, or it is not clear whether numbers in
            front belong to the names.
    """
    if is_labels(text):
        value = json_value(text, source)
        by_number = all(key.isdecimal() for key in value) and not all(
            str(name).isdecimal() for name in value.values()
        )
        return parse_labels(
            {str(name): key for key, name in value.items()} if by_number else value, source
        )
    if JSON_LIST.match(text):
        return _distinct([str(name) for name in json_value(text, source)], source)
    lines = list(numbered_lines(text))
    if lines and lines[0][1].lower() in HEADERS:
        del lines[0]
    if not lines:
        raise DataError(f"{source} holds no class names; one per line is expected")
    texts = [line for _, line in lines]
    return _distinct(_by_number(texts, source) or [_unquoted(line) for line in texts], source)


def _by_number(lines: Sequence[str], source: str) -> list[str] | None:
    """The names of a numbered list in the order of the numbers; None if it is none."""
    for pattern in (NUMBERED, NUMBERED_BEHIND):
        matches = [match for line in lines if (match := pattern.fullmatch(line))]
        if len(matches) < len(lines):
            continue
        numbers = sorted(int(match["number"]) for match in matches)
        matches.sort(key=lambda match: int(match["number"]))
        names = [_unquoted(match["name"]) for match in matches]
        if numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
            # `stage 1` and `stage 2` are names, and so is a single `stage 1`.
            if pattern is NUMBERED or len(set(names)) == len(names) > 1:
                return names
        elif pattern is NUMBERED and numbers[0] < 2 <= len(lines):
            raise DataError(
                f"every line of {source} begins with a number, and the numbers are not 0, 1, 2 or "
                f"1, 2, 3 to the end: {lines[0]!r}. If they number the classes, complete the list; "
                'if they belong to the names, put the names in quotes (")'
            )
    return None


def _distinct(names: Sequence[str], source: str) -> tuple[str, ...]:
    """The names; a DataError if one is there twice."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{source} names class {twice[0]!r} twice; each needs a name of its own")
    return tuple(names)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the class names of a checkpoint, one per line in the order of its scores.

    Raises:
        DataError: If the file cannot be read, is empty, or has an empty line before its end.
    """
    try:
        text = read_file(path).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(f"the class names {path} cannot be read: {input_problem(error)}") from error
    names = [line.strip() for line in text.rstrip().split("\n")]
    if "" in names:
        raise DataError(
            f"line {names.index('') + 1} of {path} is empty. Expected is one class name per line."
        )
    return tuple(names)


def _unquoted(name: str) -> str:
    quoted = len(name) > 1 and name[0] == name[-1] == '"'
    return name[1:-1].replace('""', '"') if quoted else name
