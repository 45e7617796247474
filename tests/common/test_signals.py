"""Signals of schedulers become an error that ends a command cleanly."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from reskd.common.errors import PreemptedError
from reskd.common.signals import preemptible, stop_request

pytestmark = pytest.mark.usefixtures("ctrl_c_arrives")


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_inside_the_block_is_raised_and_named(number: signal.Signals) -> None:
    before = handlers()
    with pytest.raises(PreemptedError, match=f"Stopped by {number.name}") as caught, preemptible():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 75
    assert handlers() == before


def test_block_that_ends_or_fails_restores_the_handlers() -> None:
    before = handlers()
    with preemptible():
        assert handlers() != before
    assert handlers() == before
    with pytest.raises(RuntimeError), preemptible():
        raise RuntimeError
    assert handlers() == before


def test_block_inside_a_block_hands_back_to_the_outer_one() -> None:
    with preemptible():
        outer = handlers()
        with preemptible():
            assert handlers() != outer
        assert handlers() == outer


def test_signal_inside_a_library_that_catches_everything_still_ends_the_block() -> None:
    def compile_something() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            raise RuntimeError("the library's own word for it") from error

    with pytest.raises(PreemptedError), preemptible():
        compile_something()


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([signal.SIGUSR1], PreemptedError),
        ([signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1], PreemptedError),
        ([signal.SIGINT], KeyboardInterrupt),
        ([signal.SIGINT, signal.SIGTERM], KeyboardInterrupt),
    ],
)
def test_signals_are_noted_and_the_first_says_how_to_end(
    numbers: list[signal.Signals], expected: type[BaseException]
) -> None:
    before = handlers()
    with stop_request() as stop:
        assert not stop.made
        for number in numbers:
            os.kill(os.getpid(), number)
            assert stop.made
    assert isinstance(stop.error(), expected)
    if expected is PreemptedError:
        assert f"Stopped by {numbers[0].name}." in str(stop.error())
    assert handlers() == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_another_signal_does_not_wait(first: signal.Signals) -> None:
    with stop_request() as stop:
        os.kill(os.getpid(), first)
        assert stop.made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_that_is_ignored_stays_so_and_schedulers_are_still_obeyed() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in what a script starts with `&`
    made = []
    with stop_request() as stop:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            made.append(stop.made)
    assert made == [False, False, True, True]
    assert "Stopped by SIGTERM." in str(stop.error())
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.parametrize("block", [preemptible(), stop_request()], ids=["raised", "noted"])
def test_block_in_another_thread_works_without_handlers(
    block: AbstractContextManager[object],
) -> None:
    before = handlers()

    def work() -> list[object]:
        with block:
            return handlers()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == before
