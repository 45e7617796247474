"""Times of contenders that take turns, so that what else the machine does hits all of them alike.

Absolute times on a shared machine say little; ratios taken inside one run, turn by turn, hold.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")
Seconds = dict[str, list[float]]
"""Per contender the time of every round, in order."""


def interleaved(
    contenders: Mapping[str, Callable[[T], object]],
    prepare: Callable[[], T],
    *,
    rounds: int,
    warmups: int = 1,
) -> Seconds:
    """Run every contender once per round.

    Each round begins with another contender, so that none always follows the same neighbour.

    Args:
        contenders: What to time, by name.
        prepare: Makes what the next turn works on; called before every turn, not timed.
        rounds: Turns of each that count.
        warmups: Rounds before them, which do not.
    """
    names = list(contenders)
    seconds: Seconds = {name: [] for name in names}
    for turn in range(warmups + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            work = prepare()
            start = time.perf_counter()
            contenders[name](work)
            taken = time.perf_counter() - start
            if turn >= warmups:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], slower: str, faster: str) -> float:
    """How many times as long one contender takes as another: the median over the rounds."""
    return median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))


def load() -> float:
    """Processes that ran or wanted to, averaged over the last minute."""
    return os.getloadavg()[0]
