"""The part of a cache that one of several drivers fills."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Slice:
    """Every n-th unit.

    Neighbours in an index are often of one class and length, so that slices of neighbours would
    take unequal times; and units that are added later fall to all slices.
    """

    number: int
    """From 1."""
    count: int
    """How many slices there are."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3/16`.

        Raises:
            ValueError: If that is no slice.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{text!r} is no slice; the third of sixteen is 3/16, the first 1/16.")
        return cls(int(found[1]), int(found[2]))

    def of(self, units: Iterable[int]) -> list[int]:
        """Those of some units that are in it, in order."""
        return [unit for unit in units if unit % self.count == self.number - 1]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
