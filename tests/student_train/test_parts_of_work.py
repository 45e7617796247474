"""Processes leave long work together, or learn how another one ended."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
from torch._C._distributed_c10d import FileStore

from reskd.common.errors import PreemptedError, StoppedShortError
from reskd.common.signals import preemptible
from reskd.student_train.distributed import joined_processes
from reskd.student_train.parts_of_work import PartsOfWork
from tests.student_train.two_processes import as_torchrun_does, free_port, in_two_processes
from tests.tiny_experiment import ALONE


def _parts(folder: Path, rank: int) -> PartsOfWork:
    return PartsOfWork(FileStore(str(folder / "store"), 2), "work", rank, 2)


@contextmanager
def _beside(work: Thread) -> Iterator[None]:
    work.start()
    yield
    work.join()


def _ends(parts: PartsOfWork, seconds: float) -> None:
    with parts.ended_together():
        time.sleep(seconds)


def test_process_waits_for_the_part_of_the_other(tmp_path: Path) -> None:
    began = time.monotonic()
    slow = Thread(target=_ends, args=(_parts(tmp_path, 1), 0.5))
    with _beside(slow):
        _ends(_parts(tmp_path, 0), 0.0)
        assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StoppedShortError("disk"), StoppedShortError),
        (ValueError("bug"), StoppedShortError),
        (PreemptedError("signal"), PreemptedError),
        (KeyboardInterrupt(), PreemptedError),
    ],
    ids=["failed", "bug", "stopped", "ctrl-c"],
)
def test_process_that_waits_learns_how_the_other_ended(
    tmp_path: Path, error: BaseException, told: type[BaseException]
) -> None:
    with pytest.raises(type(error)), _parts(tmp_path, 1).ended_together():
        raise error
    with (
        pytest.raises(told, match="1 of this run"),
        _parts(tmp_path, 0).ended_together(),
    ):
        pass


def test_signal_is_obeyed_while_waiting(tmp_path: Path) -> None:
    def late() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    with (
        _beside(Thread(target=late)),
        pytest.raises(PreemptedError, match="Stopped by SIGTERM"),
        preemptible(),
        _parts(tmp_path, 0).ended_together(),
    ):
        pass


def test_process_alone_waits_for_nobody() -> None:
    with ALONE.apart():
        pass


def _longer_than_a_collective_may_take(port: int, rank: int) -> bool:
    """Twice, as two runs of one program."""
    as_torchrun_does(rank, port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reskd.student_train.distributed.default_pg_timeout", timedelta(seconds=1))
        with joined_processes("cpu") as processes:
            for slow in (0, 1):
                began = time.monotonic()
                with processes.apart():
                    time.sleep(1.5 if rank == slow else 0)
                if time.monotonic() - began < 1.5:
                    return False
                processes.wait()
    return True


@pytest.mark.slow
def test_no_time_limit_of_the_group_is_met() -> None:
    assert in_two_processes(partial(_longer_than_a_collective_may_take, free_port())) == [True] * 2


def _first_ends_while_the_second_waits(port: int, rank: int) -> str:
    """The store is gone with it."""
    as_torchrun_does(rank, port)
    if rank == 0:
        with joined_processes("cpu") as processes:
            processes.all_of("")
        return ""
    with (
        pytest.raises(StoppedShortError) as told,
        joined_processes("cpu") as processes,
        processes.apart(),
    ):
        pass
    return str(told.value)


def test_process_whose_store_is_gone_is_told() -> None:
    first, second = in_two_processes(partial(_first_ends_while_the_second_waits, free_port()))
    assert first == ""
    assert "has lost another process of this run" in second
