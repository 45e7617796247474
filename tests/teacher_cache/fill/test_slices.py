"""Several drivers on one folder: one cache, of which every unit is of one driver."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.console import say
from reskd.common.dataset.index import read_index
from reskd.common.errors import StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.storage.system_errors import tell
from reskd.teacher_cache.fill import engine, locks, opening
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.slices import Slice
from reskd.teacher_cache.fill.writer import UnitBuffers, create_cache, write_unit
from reskd.teacher_cache.format.commits import Computed, missing_units, read_commit, read_commits
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.info import cache_info
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.verify import verify_cache
from tests.campaigns.many_drivers import at_one_moment, command_of, environment
from tests.processes import started
from tests.teacher_cache.handling import OPTIONS, rows_of, tree_of
from tests.tiny_experiment import TinyCache, save_random_teacher

UNITS = 9


def fill_slice(experiment: Path, folder: Path, part: str | None) -> dict[str, object]:
    """Run stage one on a slice, in this process."""
    resolved = load_experiment(str(experiment))
    plan = plan_cache(resolved, read_index(resolved.data.index), memory_bytes=10**9)
    options = replace(OPTIONS, part=None if part is None else Slice.parse(part))
    return run_cache_teacher(resolved, plan, folder, options)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "3/", "-1/4", "1/0", "a/b", "1/2/3", "1.0/2"])
def test_what_is_no_slice_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="the third of sixteen is 3/16"):
        Slice.parse(text)
    assert main(["cache-teacher", "tiny.yaml", "--cache", "cache", "--slice", text]) == 2
    assert "is no slice" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_slices_are_all_units_once(count: int) -> None:
    slices = [Slice(number, count).of(range(12)) for number in range(1, count + 1)]
    assert sorted(unit for part in slices for unit in part) == list(range(12))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_two_slices_are_the_cache_of_one_process(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_cache.cache.with_name("slices")
    first = fill_slice(tiny_cache.experiment, folder, "1/2")
    assert (first["units_written"], first["units_missing"]) == (5, 4)
    assert sorted(read_commits(folder, 1, range(UNITS))) == [0, 2, 4, 6, 8]
    capsys.readouterr()
    command = ["cache-teacher", str(tiny_cache.experiment), "--cache", str(folder)]
    assert main([*command, "--slice", "1/2"]) == 0
    assert "; 4 units are left to other slices" in capsys.readouterr().out
    second = fill_slice(tiny_cache.experiment, folder, "2/2")
    assert (second["units_written"], second["units_missing"]) == (4, 0)
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_first_driver_checks_the_teacher_and_others_find_the_cache(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_cache.cache.with_name("made")
    checks = []
    monkeypatch.setattr(engine, "check_accuracy", lambda *_, **__: checks.append(1))
    is_new, asked = opening.is_new, []

    def late(place: Path) -> bool:
        """Another driver makes the cache while this one is about to begin."""
        asked.append(place)
        if len(asked) == 1:
            fill_slice(tiny_cache.experiment, folder, "2/2")
            return True
        return is_new(place)

    monkeypatch.setattr(engine, "is_new", late)
    fill_slice(tiny_cache.experiment, folder, "1/2")
    assert len(checks) == 1
    assert tree_of(folder) == tree_of(tiny_cache.cache)


@pytest.mark.parametrize("other", [False, True], ids=["same experiment", "another"])
def test_loser_of_the_rename_compares_and_goes_on(
    tiny_cache: TinyCache,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: bool,
) -> None:
    """As on a file system without locks, where two drivers make the cache."""
    folder = tiny_cache.cache.with_name("made")

    def second(*args: object, **named: object) -> None:
        shutil.copytree(tiny_cache.cache, folder)
        for record in (folder / "commits").iterdir():
            record.unlink()
        create_cache(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "create_cache", second)
    if other:
        save_random_teacher(load_experiment(str(tiny_cache.experiment)), seed=2)
    command = ["cache-teacher", str(tiny_cache.experiment), "--cache", str(folder)]
    code = main([*command, "--slice", "1/1", "--threads", "1"])
    err = capsys.readouterr().err
    assert f"{folder} was made by another process meanwhile" in err
    assert code == (4 if other else 0)
    if other:
        assert "is the cache of another experiment" in err
    else:
        assert tree_of(folder) == tree_of(tiny_cache.cache)
    assert not list(folder.parent.glob("*.partial"))


@pytest.mark.parametrize(
    ("held", "asked", "message"),
    [
        ("1/2", "1/2", "is filling slice 1/2 of"),
        ("1/2", None, "Another process is writing"),
        (None, "2/2", "is writing all of"),
        ("1/2", "2/2", None),
        ("1/2", "1/3", None),
    ],
)
def test_who_may_write_beside_whom(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: str | None,
    asked: str | None,
    message: str | None,
) -> None:
    monkeypatch.setattr(locks, "_SECONDS_OF_CLEARING", 0.1)

    def writer(part: str | None) -> object:
        if part is None:
            return locks.sole_writer(tmp_path / "cache")
        return locks.slice_writer(tmp_path / "cache", Slice.parse(part))

    with ExitStack() as stack:
        stack.enter_context(writer(held))  # type: ignore[arg-type]
        if message is None:
            stack.enter_context(writer(asked))  # type: ignore[arg-type]
        else:
            with pytest.raises(StoppedShortError, match=message):
                stack.enter_context(writer(asked))  # type: ignore[arg-type]


def test_partial_files_are_cleared_by_the_last_writer_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    left = folder / "logits" / "c" / "0" / "1" / "0.12345678.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with locks.slice_writer(folder, Slice(1, 2)):
        assert not left.exists()  # nobody else is writing
        left.write_bytes(b"of this one, which lives")
        with locks.slice_writer(folder, Slice(2, 2)):
            assert left.exists()
        assert left.exists()
    assert not left.exists()


@pytest.mark.parametrize(("age", "stays"), [(60, True), (2 * 24 * 3600, False)])
def test_without_locks_only_old_partial_files_are_cleared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    age: float,
    stays: bool,
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = tmp_path / "cache" / "0.12345678.partial"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (time.time() - age,) * 2)
    with locks.slice_writer(tmp_path / "cache", Slice(1, 2)):
        assert left.exists() == stays
    told = [line for line in capsys.readouterr().err.splitlines() if "without locks" in line]
    assert len(told) == 1


def test_record_that_is_there_wins_with_its_objects(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver of an overlapping slice, on another device, computed other bytes."""
    folder, before = tiny_cache.cache, tree_of(tiny_cache.cache)
    reader = CacheReader(folder)
    manifest, generation = reader.manifest, reader.manifest.generations[0]
    buffers = UnitBuffers(manifest, generation, 3)
    rows = {name: rows_of(reader, name, 3) for name in generation.arrays}
    buffers.put(0, rows | {"logits": rows["logits"] + np.float16(1)})
    assert write_unit(folder, manifest, buffers, {}) is None
    assert "unit 3 was committed by another process meanwhile" in capsys.readouterr().err
    assert tree_of(folder) == before
    (folder / commit_key(1, 3)).unlink()  # as of a driver that was killed before it
    assert write_unit(folder, manifest, buffers, {}) == read_commit(folder, 1, 3)
    assert verify_cache(folder, "bytes").findings == ()


def test_units_that_others_finish_meanwhile_are_left_out(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_cache.cache.with_name("overlap")

    def then_another_fills(*args: object) -> list[int]:
        missing = missing_units(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(engine, "missing_units", missing_units)
        fill_slice(tiny_cache.experiment, folder, "1/3")
        return missing

    monkeypatch.setattr(engine, "missing_units", then_another_fills)
    assert fill_slice(tiny_cache.experiment, folder, "1/1")["units_written"] == 6
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_cache_that_disappears_stops_the_run_and_comes_back(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_cache.cache.with_name("gone")
    away = folder.with_name("away")

    def taken_away(text: str) -> None:
        if "units of slice" in text:
            folder.rename(away)
        say(text)

    command = ["cache-teacher", str(tiny_cache.experiment), "--cache", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "say", taken_away)
        assert main([*command, "--slice", "1/1"]) == 5
    assert f"The cache {folder} is gone" in capsys.readouterr().err
    assert not folder.exists()
    away.rename(folder)
    fill_slice(tiny_cache.experiment, folder, "1/1")
    assert tree_of(folder) == tree_of(tiny_cache.cache)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ESTALE])
@pytest.mark.parametrize("call", ["fsync", "flock"])
def test_storage_that_fails_ends_a_slice_with_5_and_keeps_what_is_committed(
    tiny_cache: TinyCache,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
) -> None:
    """As a network file system does that goes away, of an open file without its name."""
    folder = tiny_cache.cache.with_name("failing")
    module: Any = os if call == "fsync" else fcntl
    work = getattr(module, call)

    def fail(*args: Any) -> Any:
        if len(list(folder.glob("commits/*.json"))) >= 2:
            raise OSError(number, os.strerror(number))
        return work(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, call, fail)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            fill_slice(tiny_cache.experiment, folder, "1/1")
    told = tell(caught.value)
    assert told.exit_code == 5
    assert str(folder) in told.message
    assert f"{os.strerror(number)} ({errno.errorcode[number]})" in told.message
    assert len(read_commits(folder, 1, range(UNITS))) >= 2
    fill_slice(tiny_cache.experiment, folder, "1/1")
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_info_tells_which_devices_computed_how_many_units(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = read_commit(tiny_cache.cache, 1, 0)
    assert commit is not None
    assert isinstance(commit.computed, Computed)
    own = commit.computed.device
    assert cache_info(tiny_cache.cache)["devices"] == [
        {"device": own, "torch_threads": torch.get_num_threads(), "units": UNITS}
    ]
    assert main(["cache", "info", str(tiny_cache.cache)]) == 0
    assert f"9 units on {own}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 2])
def test_killed_driver_and_the_same_command_again_give_equal_bytes(
    tiny_cache: TinyCache, killed: int
) -> None:
    folder = tiny_cache.cache.with_name("slices")
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    with ExitStack() as stack:
        drivers = [
            stack.enter_context(
                started(
                    command_of(tiny_cache.experiment, folder, f"{number}/2"),
                    env=environment(),
                    **quiet,
                )
            )
            for number in (1, 2)
        ]
        own = Slice(killed, 2).of(range(UNITS))
        victim, deadline = drivers[killed - 1], time.monotonic() + 120
        while victim.poll() is None and time.monotonic() < deadline:
            if (folder / "cache.json").exists() and read_commits(folder, 1, own):
                victim.kill()
            time.sleep(0.001)
        assert victim.wait() == -signal.SIGKILL
        again = command_of(tiny_cache.experiment, folder, f"{killed}/2")
        subprocess.run(again, check=True, env=environment(), capture_output=True)
        assert drivers[2 - killed].wait(120) == 0
    assert tree_of(folder) == tree_of(tiny_cache.cache)


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_four_drivers_at_one_moment_on_an_empty_folder(tiny_cache: TinyCache, round_: int) -> None:
    folder = tiny_cache.cache.with_name(f"round-{round_}")
    if round_ == 1:
        folder.mkdir()  # an empty one counts as none
    ends = at_one_moment(tiny_cache.experiment, folder, 4)
    assert [code for code, _ in ends] == [0] * 4, ends
    assert tree_of(folder) == tree_of(tiny_cache.cache)
    assert not list(folder.parent.glob("*.partial"))
