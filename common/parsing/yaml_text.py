"""YAML within bounds: what a person writes by hand, no more.

An anchor that is named again and again makes a text of ten lines as large as memory, a number
written in base 60 as long as it likes; PyYAML bounds neither, nor the depth.
"""

from typing import Any, Final

import yaml

from reskd.common.parsing.json_text import MOST_DEPTH
from reskd.common.parsing.shown import shortened, shown

MOST_CHARACTERS: Final = 1 << 18
MOST_VALUES: Final = 10_000
"""Those that aliases repeat are counted as often."""
_INT64: Final = range(-(1 << 63), 1 << 63)
_SURROGATES: Final = range(0xD800, 0xE000)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, no key twice in a mapping.

    Raises:
        ValueError: If it is not YAML, or exceeds a bound; the text says which, not the file's name.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, more than the {MOST_CHARACTERS} read")
    try:
        return yaml.load(text, _BoundedLoader)
    except yaml.YAMLError as error:
        raise ValueError(shortened(str(error), 1000)) from error
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    # What PyYAML itself raises for tags with values that are none, such as `!!bool maybe`.
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"a value does not fit its tag ({shortened(repr(error), 200)})") from error


_TOO_DEEP: Final = f"its values lie more than {MOST_DEPTH} deep inside each other"
_TOO_MANY: Final = f"it has more than {MOST_VALUES} values, aliases counted"


class _BoundedLoader(yaml.SafeLoader):
    """Refuses what exceeds a bound, and a key said twice: YAML's own silently keeps the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._values += 1
        if self._depth > MOST_DEPTH:
            raise ValueError(_TOO_DEEP)
        if self._values > MOST_VALUES:
            raise ValueError(_TOO_MANY)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise ValueError(_TOO_MANY)
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text: Any = super().construct_scalar(node)
        if isinstance(text, str) and any(one == "\0" or ord(one) in _SURROGATES for one in text):
            raise yaml.MarkedYAMLError(
                problem=f"NUL or half a character in {shown(text)}", problem_mark=node.start_mark
            )
        return text

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node) if len(node.value) < 100 else 1 << 64
        if number not in _INT64:
            raise yaml.MarkedYAMLError(
                problem=f"integer of more than 64 bits, {shown(node.value)}",
                problem_mark=node.start_mark,
            )
        return int(number)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {shown(key.value)} appears twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_BoundedLoader.add_constructor("tag:yaml.org,2002:int", _BoundedLoader.construct_yaml_int)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, those of aliases as often as they are named; stops beyond the bound."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if (size := known.get(id(node))) is not None:
        return size
    known[id(node)] = MOST_VALUES + 1  # until it is known: a node inside itself has no end
    size = 1
    for child in node.value:
        for one in child if isinstance(child, tuple) else (child,):
            size += _size(one, known)
        if size > MOST_VALUES:
            break
    known[id(node)] = size
    return size
