"""Lists of names in messages: the first ten, and how many more."""

from collections.abc import Iterable

LISTED = 10
"""Longest list of names in a message."""


def names(items: Iterable[str]) -> str:
    """Names in one line."""
    return ", ".join(_shortened(items))


def listing(lines: Iterable[str]) -> str:
    """One name a line, indented."""
    return "\n".join(f"  {line}" for line in _shortened(lines))


def _shortened(items: Iterable[str]) -> list[str]:
    items = list(items)
    rest = len(items) - LISTED
    return items[:LISTED] + ([f"and {rest} more"] if rest > 0 else [])
