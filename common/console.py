"""What a person sees while a command works: progress on stderr, results on stdout."""

import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from reskd.common.storage.records import without_nan

PLAIN_INTERVAL_SECONDS = 10.0
_CONTROLLING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, line breaks and the escape of sequences
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029\ufeff]"  # further line breaks, and a mark that is not seen
)


def counted(count: int, noun: str) -> str:
    """A number of things: "1 video", "2 videos"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Advance(Protocol):
    """Call it with the number of finished items and, if wanted, a short note."""

    def __call__(self, items: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(
    title: str, total: int, *, unit: str, done: int = 0, shown: bool = True
) -> Iterator[Advance]:
    """A bar on a terminal; elsewhere a plain line every ten seconds.

    Args:
        title: What is being done.
        total: Items in all.
        unit: Name of an item, in the plural.
        done: Items finished by an earlier run.
        shown: False shows nothing, for all but one of several processes.
    """
    if not shown:
        yield lambda items=1, note="": None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),  # [brackets] may be part of a name
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit, markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda items=1, note="": bar.update(task, advance=items, note=note)
    else:
        yield _PlainProgress(title, total, unit, done)


class _PlainProgress:
    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = self._done_before = done
        self._start = self._last = time.monotonic()

    def __call__(self, items: int = 1, note: str = "") -> None:
        self._done += items
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL_SECONDS and self._done < self._total:
            return
        self._last = now
        elapsed = now - self._start
        left = elapsed / max(1, self._done - self._done_before) * (self._total - self._done)
        say(
            f"{self._title}: {self._done}/{self._total} {self._unit}, {elapsed:.0f} s, "
            f"about {left:.0f} s left{'  ' if note else ''}{note}"
        )


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Keep what libraries log while they try again out of the way of what we say at the end."""
    loggers = [logging.getLogger(name) for name in libraries]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class Lines(str):
    """Text of several lines, in each of which nothing but what is to be shown is left."""

    __slots__ = ()


def in_lines(*texts: str) -> Lines:
    """Texts one below the other; each is one line, but for those that are `Lines` already."""
    return Lines("\n".join(map(shown, texts)))


def shown(text: str) -> str:
    """A text as it may leave: a name may hold line breaks and what terminals obey.

    Characters that control something are written as escapes. Line breaks are kept where they are
    ours (`in_lines`).
    """
    return text if isinstance(text, Lines) else one_line(text)


def one_line(text: str) -> str:
    """A text in one line, in which every character that controls something is an escape."""
    return _CONTROLLING.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str) -> None:
    """A line for a person, on stderr, or `Lines`."""
    click.echo(shown(text), err=True)


def emit(result: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    """The result of a command on stdout: one JSON object (in ASCII, for any locale), or a text."""
    if as_json:
        click.echo(json.dumps(without_nan(result), indent=1, default=str))
    else:
        click.echo(shown(text))


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """A table as lines, its first `left` columns aligned to the left, the others to the right."""
    cells = [list(map(one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
