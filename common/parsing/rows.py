"""Many lines of JSON as dataclasses: fast, checked, and equal values kept once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from reskd.common.parsing.json_text import parse_json

Row = TypeVar("Row")


class RowReader(Generic[Row]):
    """Reads lines that each hold a dataclass of one kind, as its pydantic annotations say."""

    def __init__(self, kind: type[Row]) -> None:
        self._adapter: TypeAdapter[Row] = TypeAdapter(kind)

    def __call__(self, line: bytes) -> Row:
        """One of them.

        Raises:
            ValidationError: If a field is wrong, missing or unknown.
            ValueError: If it is not JSON.
        """
        try:
            return self._adapter.validate_json(line)
        except ValidationError:  # to pydantic, names that are no UTF-8 are no JSON
            return self._adapter.validate_python(parse_json(line))


def kept_once() -> AfterValidator:
    """Of a field that has few values: rows share them, which halves what a small row takes."""

    @lru_cache(maxsize=1 << 14)
    def shared(value: Any) -> Any:
        return value

    return AfterValidator(shared)


@contextmanager
def collector_paused() -> Iterator[None]:
    """For making many objects: the collector of cycles would look at all of them again and again.

    Nothing is lost by that where they hold no cycles.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
