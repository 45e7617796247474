"""Names of any script, cut to their room: nothing in them is markup or stops the drawing."""

import unicodedata
from collections.abc import Iterable
from typing import Final

from matplotlib import font_manager

BASE_FONT: Final = "DejaVu Sans"
"""Comes with matplotlib; knows Latin, Greek, Cyrillic, Arabic and most signs."""
PLACEHOLDERS: Final = "Last Resort"
"""Begins the names of fonts that have a box for every letter there is."""
UNKNOWN: Final = "\N{REPLACEMENT CHARACTER}"
NARROW: Final = 0.62
"""Usual width of a letter in its size; East Asian ones are as wide as high."""


def printable(text: str) -> str:
    """Line breaks, control characters and bytes that are no text replaced by a sign."""
    return "".join(letter if letter.isprintable() else UNKNOWN for letter in text)


def letters_in(width: int, text: str, *, size: int) -> int:
    """How many letters like those of a text have room in `width` pixels."""
    wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return int(width / (size if wide else size * NARROW))


def fitted(text: str, *, size: int, width: int) -> str:
    """A text cut in its middle, so that beginning and end remain, to about `width` pixels."""
    text = printable(text)
    room = letters_in(width, text, size=size)
    if len(text) <= room:
        return text
    half = (room - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def font_families(texts: Iterable[str]) -> list[str]:
    """Installed fonts that together show the letters of some texts, as far as any does."""
    families = [BASE_FONT]
    missing = {ord(letter) for text in texts for letter in text}
    missing -= _letters(font_manager.findfont(BASE_FONT))
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname)):
        if not missing:
            break
        if font.name not in families and not font.name.startswith(PLACEHOLDERS):
            shown = missing & _letters(font.fname)
            families += [font.name] if shown else []
            missing -= shown
    return families


def _letters(file: str) -> set[int]:
    """Code points that a font has; none where it cannot be read."""
    try:
        return {*font_manager.get_font(file).get_charmap()}
    except (OSError, RuntimeError):
        return set()
