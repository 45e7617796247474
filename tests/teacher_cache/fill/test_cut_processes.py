"""With many threads videos are cut in processes: equal bytes, and a killed one costs a retry."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children

import pytest

from reskd.common import worker_processes
from reskd.common.errors import StoppedShortError
from reskd.teacher_cache.estimate.probe import Preprocess
from reskd.teacher_cache.fill import cut
from reskd.teacher_cache.fill.pipeline.keeper import UnitKeeper
from reskd.teacher_cache.fill.pipeline.units import UnitPlanner, UnitWork
from tests.teacher_cache.fill.test_pipeline import fill_again
from tests.teacher_cache.handling import OPTIONS, tree_of
from tests.tiny_experiment import TinyCache, cut_off

TWO = replace(OPTIONS, threads=2)


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "MOST_THREADS", 1)


def after_units(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Have something done when a unit is finished."""
    end = UnitKeeper.end

    def and_act(keeper: UnitKeeper, work: UnitWork) -> None:
        end(keeper, work)
        act(work.unit)

    monkeypatch.setattr(UnitKeeper, "end", and_act)


def kill_a_worker() -> None:
    workers = active_children()
    assert workers, "no process decodes"
    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)
    workers[0].join()


@pytest.mark.usefixtures("in_processes")
@pytest.mark.parametrize("preprocess", ["cpu", "device"])
def test_processes_change_no_byte(
    tiny_cache: TinyCache, preprocess: Preprocess, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()
    after_units(monkeypatch, lambda unit: seen.append(len(active_children())))
    folder = fill_again(tiny_cache, replace(TWO, preprocess=preprocess))
    assert tree_of(folder) == tree_of(tiny_cache.cache)
    assert max(seen) == 2
    assert not active_children()


@pytest.mark.usefixtures("in_processes")
def test_too_little_shared_memory_leaves_it_to_threads(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()
    after_units(monkeypatch, lambda unit: seen.append(len(active_children())))
    asked = list[int]()

    def holds_nothing(num_bytes: int) -> bool:
        asked.append(num_bytes)
        return False

    monkeypatch.setattr(cut, "shared_memory_holds", holds_nothing)
    folder = fill_again(tiny_cache, TWO)
    assert tree_of(folder) == tree_of(tiny_cache.cache)
    assert max(seen) == 0
    assert asked[0] > 0


@pytest.mark.usefixtures("in_processes")
def test_unreadable_video_is_marked(tiny_cache: TinyCache) -> None:
    cut_off(next(iter((tiny_cache.experiment.parent / "videos").rglob("*.mp4"))))
    folders = [
        fill_again(tiny_cache, replace(TWO, threads=threads, max_bad=0.5), name=str(threads))
        for threads in (1, 2)
    ]
    assert tree_of(folders[0]) == tree_of(folders[1])


@pytest.mark.slow
@pytest.mark.usefixtures("in_processes")
def test_videos_of_a_killed_process_are_decoded_once_more(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed, plan = list[int](), UnitPlanner.plan

    def and_kill_once(planner: UnitPlanner, unit: int, batch_clips: int) -> UnitWork:
        if unit == 8 and not killed:
            killed.append(unit)
            for _ in range(TWO.threads):
                kill_a_worker()
        return plan(planner, unit, batch_clips)

    monkeypatch.setattr(UnitPlanner, "plan", and_kill_once)
    folder = fill_again(tiny_cache, TWO)
    assert killed
    assert "a process that decodes was killed" in capsys.readouterr().err
    assert tree_of(folder) == tree_of(tiny_cache.cache)


@pytest.mark.slow
@pytest.mark.usefixtures("in_processes")
def test_process_killed_again_stops_the_run_and_the_same_command_goes_on(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = UnitPlanner.plan

    def and_kill_at_the_last(planner: UnitPlanner, unit: int, batch_clips: int) -> UnitWork:
        if unit == 8:
            kill_a_worker()
        return plan(planner, unit, batch_clips)

    with monkeypatch.context() as patch:
        patch.setattr(UnitPlanner, "plan", and_kill_at_the_last)
        with pytest.raises(StoppedShortError, match=r"fewer --threads: up to 1 decode in this"):
            fill_again(tiny_cache, TWO)
    assert tree_of(fill_again(tiny_cache, TWO)) == tree_of(tiny_cache.cache)


@pytest.mark.slow
@pytest.mark.usefixtures("in_processes")
def test_error_of_a_worker_is_its_own(tiny_cache: TinyCache) -> None:
    shutil.rmtree(tiny_cache.experiment.parent / "videos")
    with pytest.raises(StoppedShortError) as raised:
        fill_again(tiny_cache, TWO)
    assert "Traceback" not in str(raised.value)


def test_only_the_death_of_a_worker_is_one() -> None:
    died = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    assert worker_processes.worker_has_died(died)
    assert not worker_processes.worker_has_died(RuntimeError("CUDA out of memory"))
