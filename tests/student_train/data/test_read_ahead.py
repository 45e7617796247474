"""Batches share few slots, and no batch ever sees another."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.errors import CacheError
from reskd.student_train.data.decoded_frames import LoadedBatch
from reskd.student_train.data.read_ahead import KEPT, SlotRing
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import CPU, TinyCache

NAMES = ("frames", "features", "feature_residual", "logits")
# Nine usable videos in the cache; eleven batches, the last one is short.
BATCHES = [[batch % 9, (batch + 4) % 9, (batch + 5) % 9] for batch in range(10)] + [[7]]
VIEW = 2


class WatchedReader(CacheReader):
    """Counts batches it has read, and is slow or fails at videos on demand."""

    gathered = 0
    seconds = 0.0
    broken_video: int | None = None

    def gather(
        self, name: str, views: Any, videos: Any, out: NDArray[Any], **further: Any
    ) -> NDArray[Any]:
        if self.broken_video in videos:
            raise CacheError(f"video {self.broken_video} is broken")
        time.sleep(self.seconds)
        result = super().gather(name, views, videos, out, **further)
        self.gathered += name == NAMES[-1]
        return result


@pytest.fixture
def reader(tiny_cache: TinyCache) -> WatchedReader:
    return WatchedReader(tiny_cache.cache)


def _ring(reader: CacheReader, *, slots: int = 4, names: Sequence[str] = NAMES) -> SlotRing:
    return SlotRing(reader, names, max_rows=3, slots=slots, device=CPU)


def _items(batches: list[list[int]] = BATCHES) -> list[LoadedBatch]:
    return [LoadedBatch(videos) for videos in batches]


def _assert_plain(rows: dict[str, Tensor], reader: CacheReader, videos: list[int]) -> None:
    """Rows are what a plain read into memory of its own gives."""
    assert tuple(rows) == NAMES
    for name, tensor in rows.items():
        expected = reader.empty(name, len(videos))
        CacheReader.gather(reader, name, [VIEW] * len(videos), videos, expected)
        assert tensor.numpy().dtype == expected.dtype
        np.testing.assert_array_equal(tensor.numpy(), expected)


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("slots")]


def _await_gathered(reader: WatchedReader, batches: int) -> None:
    """Give the ring time to read that many batches in all, and to make the mistake of more."""
    deadline = time.monotonic() + 20
    while reader.gathered < batches and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert reader.gathered == batches


@pytest.mark.parametrize("slots", [2, 3, 4, 12])
def test_rows_of_every_batch_equal_a_plain_gather(reader: WatchedReader, slots: int) -> None:
    seen = []
    for item, rows in _ring(reader, slots=slots).read(VIEW, _items()):
        _assert_plain(rows, reader, item.videos)
        seen.append(item.videos)
    assert seen == BATCHES
    assert _threads() == []


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_ring_of_n_slots_uses_n_places_in_memory_again_and_again(
    reader: WatchedReader, slots: int
) -> None:
    ring = _ring(reader, slots=slots)
    epochs = [
        [
            tuple(tensor.data_ptr() for tensor in rows.values())
            for _, rows in ring.read(VIEW, _items())
        ]
        for _ in range(2)
    ]
    assert epochs[0] == epochs[1]
    for of_one_array in zip(*epochs[0], strict=True):
        assert len(of_one_array) == len(BATCHES)
        assert len(set(of_one_array)) == slots
        assert of_one_array == (of_one_array[:slots] * len(BATCHES))[: len(BATCHES)]


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_slow_consumer_keeps_its_batch_and_the_one_before_while_others_are_read_ahead(
    reader: WatchedReader, slots: int
) -> None:
    kept: list[tuple[LoadedBatch, dict[str, Tensor]]] = []
    for number, batch in enumerate(_ring(reader, slots=slots).read(VIEW, _items())):
        _await_gathered(reader, min(max(number - KEPT, 0) + slots, len(BATCHES)))
        kept = [*kept[-KEPT:], batch]
        for item, rows in kept:
            _assert_plain(rows, reader, item.videos)


def test_last_short_batch_is_the_front_of_its_slot(reader: WatchedReader) -> None:
    *_, (item, rows) = _ring(reader).read(VIEW, _items())
    assert item.videos == [7]
    assert [len(tensor) for tensor in rows.values()] == [1] * len(NAMES)
    assert all(tensor.is_contiguous() for tensor in rows.values())


def test_error_of_the_reader_comes_when_its_batch_does(reader: WatchedReader) -> None:
    reader.broken_video = 8
    batches, seen = [[0, 1, 2], [3, 4], [5], [6, 8], [7]], []

    def read_all() -> None:
        for item, rows in _ring(reader, slots=4).read(VIEW, _items(batches)):
            _assert_plain(rows, reader, item.videos)
            seen.append(item.videos)

    with pytest.raises(CacheError, match="video 8 is broken"):
        read_all()
    assert seen == batches[:3]
    assert _threads() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_consumer_that_fails_and_closes_leaves_no_thread(
    reader: WatchedReader, error: type[BaseException]
) -> None:
    ring = _ring(reader)

    def fail_at_second() -> None:
        reading = ring.read(VIEW, _items())
        try:
            for number, _ in enumerate(reading):
                if number == 1:
                    raise error
        finally:
            reading.close()

    with pytest.raises(error):
        fail_at_second()
    assert _threads() == []
    for item, rows in ring.read(VIEW, _items()):  # and the ring is as good as new
        _assert_plain(rows, reader, item.videos)


def test_reading_that_is_dropped_leaves_no_thread(reader: WatchedReader) -> None:
    reading = _ring(reader).read(VIEW, _items())
    next(reading)
    assert len(_threads()) == 1
    del reading
    assert _threads() == []


def test_reading_that_is_left_does_not_first_read_what_was_ahead(reader: WatchedReader) -> None:
    reader.seconds = 0.02  # for each of four arrays
    reading = _ring(reader, slots=len(BATCHES)).read(VIEW, _items())
    next(reading)
    reading.close()
    assert reader.gathered < len(BATCHES) / 2


def test_error_of_the_batches_themselves_leaves_no_thread(reader: WatchedReader) -> None:
    def broken() -> Any:
        yield LoadedBatch([0])
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(_ring(reader).read(VIEW, broken()))
    assert _threads() == []


def test_two_loops_over_one_ring_are_refused(reader: WatchedReader) -> None:
    ring = _ring(reader)
    first = ring.read(VIEW, _items())
    next(first)
    with pytest.raises(AssertionError, match="same slots"):
        next(ring.read(VIEW, _items()))
    first.close()
    assert len(list(ring.read(VIEW, _items()))) == len(BATCHES)


def test_ring_without_a_slot_to_keep_is_refused(reader: WatchedReader) -> None:
    with pytest.raises(ValueError, match="at least 2 slots, got 1"):
        _ring(reader, slots=1)


class FakeEvents:
    """CUDA's events, without CUDA: what happened to them, in order."""

    def __init__(self, reader: WatchedReader) -> None:
        self.log: list[tuple[str, int, int]] = []
        outer = self

        class Event:
            def __init__(self, *, blocking: bool) -> None:
                assert blocking, "the reading thread would turn in a loop"

            def record(self, stream: str) -> None:
                assert stream == "stream of cuda:1"
                outer.log.append(("recorded", id(self), reader.gathered))

            def synchronize(self) -> None:
                outer.log.append(("awaited", id(self), reader.gathered))

        self.event_class = Event
        self.kept: list[Event] = []


def test_slot_on_a_gpu_is_pinned_and_filled_again_only_after_its_copies(
    reader: WatchedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, pinned = FakeEvents(reader), []

    def make_event(*, blocking: bool) -> Any:
        events.kept.append(
            events.event_class(blocking=blocking)
        )  # kept, so that no id is used twice
        return events.kept[-1]

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(torch.cuda, "Event", make_event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    ring = SlotRing(reader, NAMES, max_rows=3, slots=2, device=torch.device("cuda", 1))
    assert len(pinned) == 2 * len(NAMES)
    for number, _ in enumerate(ring.read(VIEW, _items())):
        # Batches 0 and 1 find empty slots; every later one has waited for the batch two before.
        _await_gathered(reader, max(number + 1, 2))
        awaited = [event for what, event, _ in events.log if what == "awaited"]
        recorded = [event for what, event, _ in events.log if what == "recorded"]
        assert len(recorded) == number
        assert awaited == recorded[: max(number - 1, 0)]
    waits = [(event, gathered) for what, event, gathered in events.log if what == "awaited"]
    assert [gathered for _, gathered in waits] == list(range(2, len(BATCHES)))


def test_slot_in_use_when_reading_is_left_waits_for_its_copies_too(
    reader: WatchedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = FakeEvents(reader)
    monkeypatch.setattr(torch.cuda, "Event", events.event_class)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    ring = SlotRing(reader, NAMES, max_rows=3, slots=2, device=torch.device("cuda", 1))
    reading = ring.read(VIEW, _items())
    next(reading)
    reading.close()
    assert [what for what, _, _ in events.log] == ["recorded"]
    next(ring.read(VIEW, _items()))
    assert [what for what, _, _ in events.log][:2] == ["recorded", "awaited"]


@pytest.mark.gpu
def test_batches_copied_to_a_gpu_hold_what_the_store_holds(reader: WatchedReader) -> None:
    device = torch.device("cuda")
    ring = SlotRing(reader, NAMES, max_rows=3, slots=2, device=device)
    copies: list[tuple[list[int], dict[str, Tensor]]] = []
    for item, rows in ring.read(VIEW, _items()):
        assert all(tensor.is_pinned() for tensor in rows.values())
        copies.append(
            (
                item.videos,
                {name: tensor.to(device, non_blocking=True) for name, tensor in rows.items()},
            )
        )
    for videos, rows in copies:
        _assert_plain({name: tensor.cpu() for name, tensor in rows.items()}, reader, videos)
