"""Signals of schedulers become an error that ends a command cleanly."""

import os
import signal

import pytest

from common.errors import PreemptedError
from common.signals import preemptible


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
