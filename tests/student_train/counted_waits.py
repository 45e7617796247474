"""How often a program asks for the value of a tensor, which on a GPU is what it waits for."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import current_thread, main_thread
from typing import Any, Final
from unittest.mock import patch

from torch import Tensor

from reskd.student_train.train.guard import OnTheWay

_ASKING: Final = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__")


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Count, by the way of asking.

    Left out are threads that fill the host's memory, and what `OnTheWay` reads: it lies there.
    """
    waits: Counter[str] = Counter()

    def counting(ask: Callable[..., Any]) -> Callable[..., Any]:
        def count(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            waits[ask.__name__] += current_thread() is main_thread()
            return ask(self, *args, **kwargs)

        return count

    ways = {name: getattr(Tensor, name) for name in _ASKING}
    read = OnTheWay.read

    def uncounted(numbers: OnTheWay) -> list[float]:
        with ExitStack() as stack:
            for name, ask in ways.items():
                stack.enter_context(patch.object(Tensor, name, ask))
            return read(numbers)

    with ExitStack() as stack:
        for name, ask in ways.items():
            stack.enter_context(patch.object(Tensor, name, counting(ask)))
        stack.enter_context(patch.object(OnTheWay, "read", uncounted))
        yield waits
