"""Rows of the store, read ahead of the training step into a ring of reused slots.

Pinned memory, which a GPU copies from while the CPU goes on, is expensive to make, so all batches
of a run pass through a few slots that are made once. One batch is being trained on while the others
are read, and the one before it is kept: whether a step went well is known when the device has gone
on to the next. A slot is filled again only after its batch was consumed: when the next but one is
asked for, and on a GPU when the copies to it are done as well.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT: Final = 1
"""Batches before the one in use that are kept."""
SLOTS: Final = KEPT + 3
"""Beside those kept one batch in use, one that is ready, one that is being read."""


class ReadsRows(Protocol):
    """A cache, or several as one."""

    def empty(self, name: str, count: int) -> NDArray[Any]:
        """Memory for so many rows of an array."""
        ...

    def gather(
        self, name: str, views: Sequence[int], videos: Sequence[int], out: NDArray[Any], /
    ) -> NDArray[Any]:
        """Read rows into it."""
        ...


class NamesVideos(Protocol):
    """Anything that says which videos make up a batch."""

    @property
    def videos(self) -> list[int]:
        """Their numbers, in the order of the batch."""
        ...


Item = TypeVar("Item", bound=NamesVideos)
Rows = dict[str, Tensor]
BatchesAndRows = Generator[tuple[Item, Rows], None, None]


class SlotRing:
    """Gathers batches of rows, a few ahead, in one thread and always the same memory.

    Args:
        reader: Cache to read.
        names: Its arrays that make up a batch.
        max_rows: Rows of the largest batch.
        slots: Batches in memory, the one in use and those kept included; 2 read nothing ahead.
        device: Where the batches will be copied; for CUDA the slots are pinned.
    """

    def __init__(
        self,
        reader: ReadsRows,
        names: Sequence[str],
        *,
        max_rows: int,
        slots: int,
        device: torch.device,
    ) -> None:
        if slots <= KEPT:
            raise ValueError(f"a ring needs at least {KEPT + 1} slots, got {slots}")
        self._slots = [_Slot(reader, names, max_rows, device) for _ in range(slots)]
        self._busy = False

    def read(self, view: int, batches: Iterable[Item]) -> BatchesAndRows[Item]:
        """Gather one view of the videos of every batch, in order.

        Batches are taken in the calling thread, as many ahead as there are free slots. Leaving
        early in any way ends the reading thread.

        Args:
            view: View number of all rows.
            batches: What to read; each is handed back with its rows.

        Yields:
            A batch and its rows by array, (B, *row_shape), B of that batch. They are good until the
            next but one is asked for.

        Raises:
            CacheError: If a row cannot be read, when the turn of its batch comes.
        """
        assert not self._busy, "two loops read through the same slots"
        free: deque[_Slot] = deque(self._slots)
        kept: deque[_Slot] = deque()
        filled: deque[tuple[Item, _Slot, Future[Rows]]] = deque()
        self._busy = True
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="slots") as pool:
                try:
                    for item in batches:
                        while not free:
                            yield from _hand_out(filled, kept, free)
                        slot = free.popleft()
                        filled.append((item, slot, pool.submit(slot.fill, view, item.videos)))
                    while filled:
                        yield from _hand_out(filled, kept, free)
                finally:
                    for _, _, future in filled:
                        future.cancel()
        finally:
            self._busy = False


class _Slot:
    """Memory of one batch."""

    def __init__(
        self, reader: ReadsRows, names: Sequence[str], max_rows: int, device: torch.device
    ) -> None:
        self._reader, self._device = reader, device
        self._copied: torch.cuda.Event | None = None
        self._buffers: Rows = {}
        for name in names:
            buffer = torch.from_numpy(reader.empty(name, max_rows))
            self._buffers[name] = buffer.pin_memory() if device.type == "cuda" else buffer

    def fill(self, view: int, videos: list[int]) -> Rows:
        """Read a batch, which may be empty, into the front rows."""
        if self._copied is not None:
            self._copied.synchronize()
        rows = {name: buffer[: len(videos)] for name, buffer in self._buffers.items()}
        for name, tensor in rows.items() if videos else ():
            self._reader.gather(name, [view] * len(videos), videos, tensor.numpy())
        return rows

    def release(self) -> None:
        """The batch is consumed, apart from copies that the GPU has not come to yet."""
        if self._device.type == "cuda":
            # Blocking: the thread that waits sleeps, instead of turning in a loop.
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record(torch.cuda.current_stream(self._device))


def _hand_out(
    filled: deque[tuple[Item, _Slot, Future[Rows]]], kept: deque[_Slot], free: deque[_Slot]
) -> BatchesAndRows[Item]:
    """Yield the oldest batch; coming back for more frees the slot of the one before it."""
    item, slot, future = filled.popleft()
    try:
        yield item, future.result()
    finally:
        slot.release()
    kept.append(slot)
    if len(kept) > KEPT:
        free.append(kept.popleft())
