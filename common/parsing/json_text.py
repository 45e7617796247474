"""JSON within bounds. Python's parser has none: neither of depth, nor of the size of numbers.

Bytes that are no UTF-8 are kept as lone surrogates, for names of files may hold such.
"""

import json
import os
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from reskd.common.parsing.shown import shown
from reskd.common.storage.kinds import name_it, open_file

MOST_BYTES: Final = 1 << 24
"""Of a file that is one value."""
MOST_VALUES: Final = 500_000
"""Of a file, counted by its commas and brackets: a value takes up to 150 bytes of memory."""
MOST_DATA_BYTES: Final = 1 << 27
MOST_DATA_VALUES: Final = 2_000_000
"""The same of files that say something of every video of a data set."""
MOST_DEPTH: Final = 64
"""Brackets inside each other. What walks a value calls itself as often."""
MOST_LINE_BYTES: Final = 1 << 24
"""Of a line of JSON Lines."""
_INT64: Final = range(-(1 << 63), 1 << 63)
_UNWRITABLE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of characters that no file holds: names that are no UTF-8 use the 128 others."""


def read_json(path: Path, *, most_bytes: int = MOST_BYTES, most_values: int = MOST_VALUES) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: As the system reports it.
        ValueError: If it is not JSON, or exceeds a bound; the text says which, not the file's name.
    """
    return parse_json(read_bounded(path, most_bytes), most_values=most_values)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        OSError: As the system reports it.
        ValueError: If it is longer; it is not read then.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ValueError(f"it has {size} bytes, more than the {most_bytes} read")
        try:
            return file.read(size + 1)  # takes that much memory first, whatever there is
        except OSError as error:
            name_it(error, path)
            raise


def parse_json(text: str | bytes, *, most_values: int = MOST_VALUES) -> Any:
    """The value of a JSON text, its numbers finite and integers of at most 64 bits.

    Raises:
        ValueError: If it is not JSON, or exceeds a bound. A `json.JSONDecodeError` knows the line.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    opened = text.count("[") + text.count("{")
    if (values := opened + text.count(",")) > most_values:
        raise ValueError(f"it holds {values} values, more than the {most_values} read")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    if opened > MOST_DEPTH:
        _check_depth(value)
    if "\\u" in text:
        _check_characters(value)
    return value


def bounded_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines of a file from number 1, without their ends; a last one that is empty is none.

    Raises:
        ValueError: If a line is longer than MOST_LINE_BYTES.
    """
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > MOST_LINE_BYTES:
            raise ValueError(f"line {number} has more than {MOST_LINE_BYTES} bytes")
        yield number, line.removesuffix(b"\n")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no JSON")


def _integer(digits: str) -> int:
    # Python refuses very long ones itself, in other words.
    if len(digits) > 20 or (number := int(digits)) not in _INT64:
        raise ValueError(f"it holds an integer of more than 64 bits: {shown(digits)[1:-1]}")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"it holds a number beyond float64: {shown(digits)[1:-1]}")
    return number


_DECODER: Final = json.JSONDecoder(parse_constant=_constant, parse_int=_integer, parse_float=_float)


def _too_deep() -> ValueError:
    return ValueError(f"its brackets lie more than {MOST_DEPTH} deep inside each other")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [inner for outer in level for inner in _inside(outer) if _holds_more(inner)]
        if not level:
            return
    raise _too_deep()


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _holds_more(value: Any) -> bool:
    return isinstance(value, dict | list)


def _check_characters(value: Any) -> None:
    """Escapes may name characters that nothing can be written with."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if _UNWRITABLE.search(one):
                raise ValueError(f"it holds half a character: {shown(one)}")
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
