"""What others wrote, in messages: never at length."""

from reprlib import Repr
from typing import Final

MOST_CHARACTERS: Final = 8_000
"""Of a whole message."""
_REPR: Final = Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


def shown(value: object) -> str:
    """A value as Python writes it, long ones by their beginning and end."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"a {type(value).__name__} of very many digits"


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text of at most about so many characters; what is left out is counted."""
    if len(text) <= most:
        return text
    head = most * 3 // 4
    left_out = len(text) - most
    return f"{text[:head]} … ({left_out} characters left out) … {text[head - most :]}"
