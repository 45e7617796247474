"""Names as they are, in any script: nothing in them is markup, and nothing stops the drawing."""

import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Final

from matplotlib import font_manager

BASE_FONT: Final = "DejaVu Sans"
"""Comes with matplotlib; knows Latin, Greek, Cyrillic, Arabic and most signs."""
PLACEHOLDERS: Final = "Last Resort"
"""Begins the names of fonts that have a box for every letter there is."""
UNKNOWN: Final = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS: Final = "…"
NARROW: Final = 0.62
"""Usual width of a letter in its size; East Asian ones are as wide as high."""


def printable(text: str) -> str:
    """Line breaks, control characters and bytes that are no text replaced by a sign."""
    return "".join(letter if letter.isprintable() else UNKNOWN for letter in text)


def fitted(text: str, *, size: int, width: int) -> str:
    """A text cut in its middle, so that beginning and end remain, to about `width` pixels."""
    text = printable(text)
    if _length(text) * size <= width:
        return text
    half = (width / size - _length(ELLIPSIS)) / 2
    return _head(text, half) + ELLIPSIS + _head(text[::-1], half)[::-1]


def wrapped(text: str, *, size: int, width: int, lines: int) -> list[str]:
    """A text in so many lines of about `width` pixels; what does not fit is cut from its middle."""
    rest, done = fitted(text, size=size, width=lines * width * 9 // 10), []
    while rest:
        line = _head(rest, width / size) or rest[:1]
        if len(line) < len(rest) and " " in line:
            line = line[: line.rindex(" ") + 1]
        done.append(line.strip())
        rest = rest[len(line) :]
    return done


def font_families(texts: Iterable[str]) -> list[str]:
    """Installed fonts that together show the letters of some texts, as far as any does.

    Letters that none of them has become boxes.
    """
    families = [BASE_FONT]
    wanted = {ord(letter) for text in texts for letter in text}
    wanted -= _letters(font_manager.findfont(BASE_FONT))
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname)):
        if not wanted:
            break
        if font.name in families or font.name.startswith(PLACEHOLDERS):
            continue
        if shown := wanted & _letters(font.fname):
            families.append(font.name)
            wanted -= shown
    return families


@cache
def _letters(file: str) -> frozenset[int]:
    """Code points that a font has; none where it cannot be read."""
    try:
        return frozenset(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _length(text: str) -> float:
    """Width of a text in its size."""
    return sum(map(_width, text))


def _width(letter: str) -> float:
    return 1.0 if unicodedata.east_asian_width(letter) in "WF" else NARROW


def _head(text: str, length: float) -> str:
    """The longest beginning that is no wider."""
    end, used = 0, 0.0
    for letter in text:
        used += _width(letter)
        if used > length:
            break
        end += 1
    return text[:end]
