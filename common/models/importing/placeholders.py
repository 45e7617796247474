"""What stands for an object whose class a file names and nobody loads.

Next to its weights a file may hold the arguments of a script, paths, numpy's numbers, a log of the
training. torch's restricted reader refuses such a file as a whole unless it is told what to put in
the place of every class and function it does not know. It is told these: they keep what they are
given and call nothing.

The reader fills dicts and lists of exactly these types, so a class that was a dict or a list
becomes one.
"""

from collections import OrderedDict
from typing import Any, Final, Literal

Kind = Literal["object", "dict", "list"]

MODULE: Final = "placeholder"
"""Module that the classes say they are of; torch names it when one of them is of the wrong kind."""


class Placeholder:
    """An object that was not made."""

    stands_for: str
    """Full name of its class, or of the function that would have made it."""
    parts: list[Any]
    """What it was to be made of, and its state."""

    def __new__(cls, *parts: Any) -> Any:
        made = object.__new__(cls)
        made.parts = list(parts)
        return made

    def __init__(self, *parts: Any) -> None:
        """Take anything: `__new__` has it."""

    def __setstate__(self, state: Any) -> None:
        self.parts.append(state)


class _DictPlaceholder(Placeholder):
    def __new__(cls, *parts: Any) -> Any:
        return OrderedDict(parts[0] if parts and isinstance(parts[0], dict) else ())


class _ListPlaceholder(Placeholder):
    def __new__(cls, *parts: Any) -> Any:
        return list(parts[0]) if parts and isinstance(parts[0], list) else []


_BASES: Final[dict[Kind, type[Placeholder]]] = {
    "object": Placeholder,
    "dict": _DictPlaceholder,
    "list": _ListPlaceholder,
}


def placeholder_class(name: str, kind: Kind) -> type[Placeholder]:
    """A class to be put where a file says `name`."""
    fields = {"stands_for": name, "__module__": MODULE, "__qualname__": f"<{name}>"}
    return type(name.rpartition(".")[2], (_BASES[kind],), fields)
