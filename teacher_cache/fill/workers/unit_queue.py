"""Which worker gets which unit: pure, less the question whether a unit is committed.

A worker asks ahead, so one that dies may have held several units, of which one has killed it. These
are suspects: each is handed out again alone, and so those that are innocent are soon committed.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

DEATHS: Final = 3
"""Of workers that held a unit, after which it is not handed out again."""


class UnitQueue:
    """Units in order, and who holds which."""

    def __init__(self, units: Iterable[int], is_committed: Callable[[int], bool]) -> None:
        self._fresh, self._suspects = deque(units), deque[int]()
        self._is_committed = is_committed
        self._held: dict[int, list[int]] = {}
        self.deaths = Counter[int]()
        """Of workers that held a unit, by unit."""

    @property
    def has_units(self) -> bool:
        """Whether there is something to hand out."""
        return bool(self._fresh or self._suspects)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left, in no worker's hands either."""
        return not (self.has_units or any(self._held.values()))

    def take(self, worker: int) -> int | None:
        """The next unit for a worker; None if it is to finish what it has."""
        held = self._held.setdefault(worker, [])
        if any(self.deaths[unit] for unit in held):
            return None
        while not held and self._suspects:
            if not self._is_committed(unit := self._suspects.popleft()):
                held.append(unit)
                return unit
        while self._fresh:
            if not self._is_committed(unit := self._fresh.popleft()):
                held.append(unit)
                return unit
        return None

    def finished(self, worker: int) -> None:
        """A worker has committed all that it held."""
        self._held[worker] = []

    def died(self, worker: int) -> list[int]:
        """A worker is dead.

        Returns:
            What it held and has not committed, which goes back.
        """
        lost = [unit for unit in self._held.pop(worker, []) if not self._is_committed(unit)]
        self.deaths.update(lost)
        self._suspects.extend(lost)
        return lost
