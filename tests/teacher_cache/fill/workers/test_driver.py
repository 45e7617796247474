"""Two workers make the cache of one process, also where they die."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.errors import StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.storage.system_errors import tell
from reskd.teacher_cache.fill.cut import MOST_THREADS
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.pipeline.fill_units import fill_units
from reskd.teacher_cache.fill.workers import driver
from reskd.teacher_cache.format.commits import read_commits
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.run_log import read_runs
from tests.processes import started
from tests.teacher_cache.handling import OPTIONS, tree_of
from tests.tiny_experiment import TinyCache, cut_off, training_videos

pytestmark = pytest.mark.slow  # a worker imports torch

UNITS, DEADLY = 9, 4
TWO = replace(OPTIONS, devices=(torch.device("cpu"),) * 2)


def fill_with_two(cache: TinyCache, folder: Path) -> dict[str, Any]:
    experiment = load_experiment(str(cache.experiment))
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    return run_cache_teacher(experiment, plan, folder, TWO)


def _killed_at(job: Job, units: Iterable[int], times: int) -> Iterator[int]:
    """The units, of which one ends its worker, so many times."""
    for unit in units:
        deaths = job.folder.with_name("deaths")
        if unit == DEADLY and (not deaths.exists() or deaths.stat().st_size < times):
            with deaths.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        yield unit


def dies_once(job: Job, manifest: Any, generation: Any, units: Any, *rest: Any, **how: Any) -> None:
    fill_units(job, manifest, generation, _killed_at(job, units, 1), *rest, **how)


def dies_always(
    job: Job, manifest: Any, generation: Any, units: Any, *rest: Any, **how: Any
) -> None:
    fill_units(job, manifest, generation, _killed_at(job, units, 99), *rest, **how)


def ends_at_once(*_: Any, **__: Any) -> None:
    os._exit(7)


def loses_its_folder(job: Job, *rest: Any, **how: Any) -> None:
    """The file system of the cache goes away once two units are committed."""
    fsync = os.fsync

    def fail(descriptor: Any) -> None:
        if len(list(job.folder.glob("commits/*.json"))) >= 2:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        fsync(descriptor)

    pytest.MonkeyPatch().setattr(os, "fsync", fail)  # of a process of its own
    fill_units(job, *rest, **how)


def test_two_workers_write_the_bytes_of_one_process(tiny_cache: TinyCache) -> None:
    folder = tiny_cache.cache.with_name("two")
    assert fill_with_two(tiny_cache, folder)["units_written"] == UNITS
    assert tree_of(folder) == tree_of(tiny_cache.cache)
    (run,) = read_runs(folder)
    assert (run["units"], run["videos"], run["clips"]) == (9, 9, 27)
    assert run["seconds"] > 0


def test_worker_of_many_threads_decodes_in_processes(tiny_cache: TinyCache) -> None:
    folder = tiny_cache.cache.with_name("one")
    many = replace(OPTIONS, devices=(torch.device("cpu"),), threads=MOST_THREADS + 1)
    experiment = load_experiment(str(tiny_cache.experiment))
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    run_cache_teacher(experiment, plan, folder, many)
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_unit_of_a_worker_that_was_killed_is_done_by_others(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_cache.cache.with_name("two")
    monkeypatch.setattr(driver, "fill_units", dies_once)
    assert fill_with_two(tiny_cache, folder)["units_missing"] == 0
    assert tree_of(folder) == tree_of(tiny_cache.cache)
    err = capsys.readouterr().err
    assert "the worker on cpu was ended by SIGKILL; " in err
    assert f"{DEADLY}) again" in err


def test_unit_that_ends_every_worker_stops_the_run_by_its_name(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_cache.cache.with_name("two")
    monkeypatch.setattr(driver, "fill_units", dies_always)
    command = ["cache-teacher", str(tiny_cache.experiment), "--cache", str(folder)]
    assert main([*command, "--devices", "cpu:2", "--threads", "2"]) == 5
    assert f"Unit {DEADLY} has ended 3 workers" in capsys.readouterr().err
    assert (folder.with_name("deaths")).read_text() == "xxx"
    monkeypatch.undo()
    assert main([*command, "--threads", "1"]) == 0
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_device_on_which_no_worker_stays_stops_the_run(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "fill_units", ends_at_once)
    with pytest.raises(StoppedShortError, match=r"3 workers on cpu .* ended with 7"):
        fill_with_two(tiny_cache, tiny_cache.cache.with_name("two"))


def test_storage_that_fails_a_worker_ends_the_run_with_5_and_keeps_what_is_committed(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_cache.cache.with_name("two")
    with monkeypatch.context() as patch:
        patch.setattr(driver, "fill_units", loses_its_folder)
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)) as caught:
            fill_with_two(tiny_cache, folder)
    told = tell(caught.value)
    assert told.exit_code == 5
    assert f"{folder}/" in told.message
    assert "Mount its network file system anew" in told.message
    assert "the worker on" not in capsys.readouterr().err  # none is taken for dead
    assert len(read_commits(folder, 1, range(UNITS))) >= 2
    fill_with_two(tiny_cache, folder)
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_unreadable_videos_of_all_workers_count_together(tiny_cache: TinyCache) -> None:
    folder, bad = tiny_cache.cache.with_name("two"), training_videos(tiny_cache.experiment)[4]
    whole = bad.read_bytes()
    cut_off(bad)
    with pytest.raises(StoppedShortError, match=bad.name):
        fill_with_two(tiny_cache, folder)
    assert 4 not in read_commits(folder, 1, range(UNITS))
    bad.write_bytes(whole)
    fill_with_two(tiny_cache, folder)
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_signal_to_the_driver_ends_all_with_75_and_the_same_command_goes_on(
    tiny_cache: TinyCache,
) -> None:
    folder = tiny_cache.cache.with_name("two")
    command = [sys.executable, "-m", "reskd.common.cli.main", "cache-teacher"]
    command += [str(tiny_cache.experiment), "--cache", str(folder), "--devices", "cpu:2"]
    one_each = {**os.environ, "OMP_NUM_THREADS": "2"}
    with started(command, env=one_each, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 120
        while run.poll() is None and time.monotonic() < deadline:
            if list(folder.glob("commits/*.json")):
                run.send_signal(signal.SIGTERM)
                break
            time.sleep(0.001)
        _, err = run.communicate(timeout=60)
        assert run.returncode == 75, err
    assert 1 <= len(read_commits(folder, 1, range(UNITS))) < UNITS
    assert not list(folder.rglob("*.partial"))
    fill_with_two(tiny_cache, folder)
    assert tree_of(folder) == tree_of(tiny_cache.cache)
