"""What an annotation file says, before anything is looked up on disk.

Each format has a pure parser from text to Annotations, in a file of its own. A parser never
guesses: what it cannot read is an error with the line, what it leaves out is listed with a reason.
"""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from reskd.common.dataset.importing.columns import refuse_unused
from reskd.common.errors import DataError
from reskd.common.parsing.json_text import (
    MOST_DATA_BYTES,
    MOST_DATA_VALUES,
    parse_json,
    read_bounded,
)
from reskd.common.storage.system_errors import input_problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One annotated video."""

    where: str
    """Line and file, for messages; empty where the video itself is what was read."""
    id: str
    """Name in the index: the same wherever the videos lie and whatever their container is."""
    files: tuple[str, ...]
    """What the file may be called, best first; the suffix of a video may differ or be absent."""
    anywhere: bool = False
    """Whether `files` are names found in any folder, rather than paths from the videos' folder."""
    labels: tuple[str, ...]
    """Names or numbers of classes, as written; at least one."""
    split: str
    num_frames: int | None = None
    """Images in the video's folder, where the format says so."""
    start_frame: int | None = None
    """First image of the video in its folder, counted from 0, where the format says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ignored:
    """What a file holds and no index takes."""

    where: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """What one file says, or several together."""

    rows: tuple[Row, ...] = ()
    numbered: bool
    """Whether labels are numbers of classes, not names."""
    may_be_names: bool = False
    """Whether they might be names all the same, being in a table of the user's own."""
    first_label: int | None = None
    """Number of the first class, where the format fixes it."""
    classes: tuple[str, ...] | None = None
    """Class list that comes with the format, in the order of the labels."""
    ignored: tuple[Ignored, ...] = ()
    drawn_splits: bool = False
    """Whether the splits were drawn here, and are not the data set's own."""


def merged(parts: Sequence[Annotations], *, classes: tuple[str, ...] | None = None) -> Annotations:
    """Several files of one format as one.

    Args:
        parts: At least one.
        classes: Class list found apart from them.

    Raises:
        DataError: If one file has labels by number and another by name.
    """
    kinds = {part.numbered: part.rows[0].where for part in parts if part.rows}
    if len(kinds) == 2:
        raise DataError(
            f"labels are numbers in one file ({kinds[True]}) and names in another "
            f"({kinds[False]}); write them alike"
        )
    first_labels = {part.first_label for part in parts}
    own = [part.classes for part in parts if part.classes is not None]
    return Annotations(
        rows=tuple(chain.from_iterable(part.rows for part in parts)),
        numbered=all(part.numbered for part in parts),
        may_be_names=any(part.may_be_names for part in parts),
        first_label=first_labels.pop() if len(first_labels) == 1 else None,
        classes=classes or (own[0] if own else None),
        ignored=tuple(chain.from_iterable(part.ignored for part in parts)),
    )


def read_text(path: Path) -> str:
    """Read an annotation file: UTF-8 or, with its mark in front, UTF-16.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        content = read_bounded(path, MOST_DATA_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"there is no annotation file {path}") from error
    except OSError as error:
        raise DataError(
            f"the annotation file {path} cannot be read: {input_problem(error)}"
        ) from error
    except ValueError as error:
        raise DataError(f"the annotation file {path} is not read: {error}") from error
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = (
        content.decode("utf-16", "replace")
        if utf_16
        else content.decode("utf-8-sig", "surrogateescape")
    )
    if (found := text.find("\0")) >= 0:
        raise wrong(
            text.count("\n", 0, found) + 1, str(path), "holds a NUL, which no name has; is it text?"
        )
    return text


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, from number 1, without white space around them."""
    # Not splitlines(): that also splits at characters which names may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped


def is_comment(line: str) -> bool:
    """Whether a line is a comment: `#` and a space. Names of videos may begin with a bare `#`."""
    return line == "#" or line.startswith("# ")


def table(
    text: str,
    source: str,
    *,
    needed: Collection[str],
    used: Collection[str] = (),
    ignored_columns: Set[str] = frozenset(),
) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV file with a header, by the header's names.

    Args:
        text: The file.
        source: Its name.
        needed: Columns that must be there.
        used: Columns that may be there.
        ignored_columns: Others that the user leaves out.

    Raises:
        DataError: If a column or a field is missing, or a column would not be used.
    """
    # Unlike text.splitlines(), this keeps line ends inside quotes.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    header: list[str] = []
    try:
        for fields in reader:
            values = [field.strip() for field in fields]
            if not any(values):
                continue
            if not header:
                # Programs that number the rows leave that column without a name.
                header = [name.lower() or f"#{at}" for at, name in enumerate(values, start=1)]
                if absent := [name for name in needed if name not in header]:
                    raise wrong(
                        reader.line_num,
                        source,
                        f"is the header and has no column {', '.join(absent)}; it is "
                        f"{','.join(values)!r:.200}",
                    )
                if twice := [name for name, count in Counter(header).items() if count > 1]:
                    raise wrong(reader.line_num, source, f"names column {', '.join(twice)} twice")
                others = [name for name in header if name not in {*needed, *used}]
                refuse_unused(others, ignored_columns, source)
            elif len(values) != len(header):
                raise wrong(
                    reader.line_num,
                    source,
                    f"has {len(values)} fields and the header {len(header)}: {','.join(fields)!r}. "
                    "Put quotes around a field that holds a comma",
                )
            else:
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise wrong(reader.line_num, source, f"is not CSV: {error}") from error
    if not header:
        raise DataError(f"{source} is empty")


def json_value(text: str, source: str) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: If it is not JSON.
    """
    try:
        return parse_json(text, most_values=MOST_DATA_VALUES)
    except JSONDecodeError as error:
        raise wrong(error.lineno, source, f"is not JSON: {error.msg}") from error
    except ValueError as error:
        raise DataError(f"{source} is not JSON that can be read: {error}") from error


def place(number: int, source: str) -> str:
    """Line and file, for messages."""
    return f"line {number} of {source}"


def wrong(number: int, source: str, problem: str) -> DataError:
    """What is wrong with a line."""
    return DataError(f"{place(number, source)} {problem}")
