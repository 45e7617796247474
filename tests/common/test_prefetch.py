"""Work ahead, in order and never far; and a follower that finishes behind, in order too."""

import threading
import time
from collections.abc import Iterator

import pytest

from reskd.common.prefetch import Follower, ordered_map


def test_results_come_in_the_order_of_items_even_if_later_ones_finish_first() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.05 if number == 0 else 0)
        return number * number

    assert list(ordered_map(slow_first, range(20), threads=4)) == [n * n for n in range(20)]


def test_no_items_give_no_results() -> None:
    assert list(ordered_map(str, [], threads=2)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_work_runs_ahead_of_its_reader_by_threads_plus_one(threads: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number, items(), threads=threads)
    for number in range(50):
        assert next(results) == number
        assert len(taken) == min(50, number + 1 + threads + 1)


def test_items_are_worked_on_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)  # one thread alone would wait for ever

    assert list(ordered_map(lambda _: both.wait() >= 0, range(4), threads=2)) == [True] * 4


def test_exception_is_raised_in_its_turn_and_ends_the_work() -> None:
    done: list[int] = []

    def fails_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        done.append(number)
        return number

    results = ordered_map(fails_at_three, range(100), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert max(done) <= 6
    assert next(results, None) is None


def test_reader_that_stops_early_ends_the_work_and_the_threads() -> None:
    before = set(threading.enumerate())
    running, closing = threading.Event(), threading.Event()
    done: list[int] = []

    def work(number: int) -> int:
        if number:
            running.set()
            closing.wait(10)
        done.append(number)
        return number

    results = ordered_map(work, range(1000), threads=1)
    next(results)
    assert running.wait(10)  # the second item is being worked on, all others wait
    timer = threading.Timer(0.3, closing.set)
    timer.start()
    results.close()
    timer.join()
    assert set(threading.enumerate()) == before
    assert done == [0, 1]  # what was running is finished, what was waiting is dropped


def test_slow_item_holds_up_no_thread_while_there_is_room_ahead() -> None:
    others = threading.Semaphore(0)

    def first_waits_for_all_others(number: int) -> int:
        if number:
            others.release()
        else:
            for _ in range(7):
                assert others.acquire(timeout=10)
        return number

    results = ordered_map(first_waits_for_all_others, range(9), threads=2, ahead=8)
    assert next(results) == 0
    assert list(results) == list(range(1, 9))


def test_follower_calls_in_order_and_only_so_far_behind() -> None:
    go_on, done = threading.Event(), list[int]()

    def call(number: int) -> None:
        assert go_on.wait(10)
        done.append(number)

    with Follower(2, "follower") as follower:
        follower.submit(call, 0)
        follower.submit(call, 1)
        threading.Timer(0.1, go_on.set).start()
        follower.submit(call, 2)  # waits for the first
        assert done[:1] == [0]
    assert done == [0, 1, 2]


def test_follower_raises_what_a_call_raised_and_runs_no_later_one() -> None:
    done = list[int]()

    def call(number: int) -> None:
        if number == 1:
            raise OSError(number)
        done.append(number)

    with pytest.raises(OSError, match="1"), Follower(9, "follower") as follower:  # noqa: PT012
        for number in range(4):
            follower.submit(call, number)
    assert done == [0]


def test_follower_that_is_left_with_an_error_drops_what_has_not_begun() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[int]()

    def call(number: int) -> None:
        begun.set()
        assert go_on.wait(10)
        done.append(number)

    with pytest.raises(KeyError), Follower(9, "follower") as follower:  # noqa: PT012
        for number in range(4):
            follower.submit(call, number)
        assert begun.wait(10)
        threading.Timer(0.1, go_on.set).start()
        raise KeyError
    assert done == [0]
