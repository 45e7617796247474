"""Units are handed out once, and again after a death: then alone."""

from reskd.teacher_cache.fill.workers.unit_queue import UnitQueue


def queue_of(units: int, committed: set[int]) -> UnitQueue:
    return UnitQueue(range(units), committed.__contains__)


def test_units_are_handed_out_in_order_and_once() -> None:
    queue = queue_of(4, set())
    assert [queue.take(worker) for worker in (1, 2, 2, 1, 1, 2)] == [0, 1, 2, 3, None, None]
    assert not queue.has_units
    assert not queue.is_finished
    queue.finished(1)
    assert not queue.is_finished
    queue.finished(2)
    assert queue.is_finished


def test_units_that_are_committed_meanwhile_are_passed_over() -> None:
    committed = set[int]()
    queue = queue_of(4, committed)
    committed |= {0, 1, 3}
    assert [queue.take(1), queue.take(1)] == [2, None]


def test_what_a_dead_worker_held_goes_back_and_is_handed_out_alone() -> None:
    committed = set[int]()
    queue = queue_of(6, committed)
    assert [queue.take(1) for _ in range(3)] == [0, 1, 2]
    assert queue.take(2) == 3
    committed.add(0)
    assert queue.died(1) == [1, 2]
    assert queue.take(2) == 4  # has other units, which a suspect might take with it
    queue.finished(2)
    assert [queue.take(2), queue.take(2)] == [1, None]
    assert [queue.take(3), queue.take(3)] == [2, None]
    committed.add(1)
    queue.finished(2)
    assert [queue.take(2), queue.take(2)] == [5, None]
    assert queue.died(3) == [2]
    assert (queue.deaths[2], queue.deaths[1], queue.deaths[0]) == (2, 1, 0)


def test_worker_that_dies_with_nothing_to_do_loses_nothing() -> None:
    queue = queue_of(1, {0})
    assert queue.died(1) == []
    assert queue.take(2) is None
    assert queue.is_finished
