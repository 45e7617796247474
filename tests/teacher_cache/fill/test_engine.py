"""Stage one stopped at any moment and started again ends with the same bytes."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import CacheError, DataError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint, save_checkpoint
from reskd.common.storage.atomic_write import write_partial
from reskd.common.storage.partial import PARTIAL_SUFFIX
from reskd.common.video.views import FAILED
from reskd.teacher_cache.fill import writer
from reskd.teacher_cache.fill.cut import CutVideo
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.fill.locks import sole_writer
from reskd.teacher_cache.fill.pipeline.lanes import Lanes
from reskd.teacher_cache.fill.pipeline.on_device import on_device
from reskd.teacher_cache.format.commits import read_commit, read_commits
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.plan import CachePlan, plan_cache
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.run_log import read_runs
from reskd.teacher_cache.verify.verify import verify_cache
from tests.processes import started
from tests.teacher_cache.handling import OPTIONS, tree_of
from tests.tiny_experiment import (
    TinyCache,
    cut_off,
    make_tiny_cache,
    save_random_teacher,
    training_videos,
)


def plan_of(experiment_file: Path) -> CachePlan:
    experiment = load_experiment(str(experiment_file))
    return plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)


def test_same_experiment_cached_twice_gives_equal_bytes(tiny_cache: TinyCache) -> None:
    again = tiny_cache.cache.with_name("again")
    make_tiny_cache(tiny_cache.experiment, again)
    assert tree_of(again) == tree_of(tiny_cache.cache)


def test_decoding_threads_change_no_byte(tiny_cache: TinyCache) -> None:
    experiment = load_experiment(str(tiny_cache.experiment))
    options = RunOptions(max_bad=0.0, threads=4, device=torch.device("cpu"), force=False)
    again = tiny_cache.cache.with_name("again")
    run_cache_teacher(experiment, plan_of(tiny_cache.experiment), again, options)
    assert tree_of(again) == tree_of(tiny_cache.cache)


@pytest.mark.parametrize("decoded_bytes", [2_000_000_000, 1], ids=["frames", "some clips"])
def test_preprocessing_on_the_device_changes_no_byte(
    tiny_cache: TinyCache, decoded_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_with_frames = []

    def noted(video: CutVideo, lanes: Lanes, size: int) -> CutVideo:
        came_with_frames.append(video.union is not None)
        return on_device(video, lanes, size)

    monkeypatch.setattr("reskd.teacher_cache.fill.pipeline.fill_units.on_device", noted)
    experiment = load_experiment(str(tiny_cache.experiment))
    options = replace(OPTIONS, preprocess="device", decoded_bytes=decoded_bytes)
    again = tiny_cache.cache.with_name("again")
    run_cache_teacher(experiment, plan_of(tiny_cache.experiment), again, options)
    assert tree_of(again) == tree_of(tiny_cache.cache)
    assert len(came_with_frames) == 9
    # A video whose frames take more memory than its share is cut before it goes there.
    assert set(came_with_frames) == ({True} if decoded_bytes > 1 else {True, False})


@pytest.mark.gpu
def test_preprocessing_on_a_gpu_changes_no_byte(tiny_cache: TinyCache) -> None:
    experiment, trees = load_experiment(str(tiny_cache.experiment)), []
    for preprocess in ("cpu", "device"):
        cache = tiny_cache.cache.with_name(preprocess)
        options = replace(OPTIONS, device=torch.device("cuda"), preprocess=preprocess)
        run_cache_teacher(experiment, plan_of(tiny_cache.experiment), cache, options)
        trees.append(tree_of(cache))
    assert trees[0] == trees[1]


def test_finished_cache_started_again_writes_nothing(tiny_cache: TinyCache) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_cache.cache.rglob("*")}
    summary = run_cache_teacher(
        load_experiment(str(tiny_cache.experiment)),
        plan_of(tiny_cache.experiment),
        tiny_cache.cache,
        OPTIONS,
    )
    assert summary["units_written"] == 0
    assert {path: path.stat().st_mtime_ns for path in tiny_cache.cache.rglob("*")} == before


def test_plan_states_exactly_the_bytes_that_are_written(tiny_cache: TinyCache) -> None:
    plan = plan_of(tiny_cache.experiment).as_dict()
    for name, planned in plan["bytes_by_array"].items():
        written = sum(
            path.stat().st_size
            for path in (tiny_cache.cache / name / "c").rglob("*")
            if path.is_file()
        )
        assert written == planned, name
    assert plan["units"] >= 8


def test_stored_logits_are_the_teacher_s_output_for_the_stored_view(tiny_cache: TinyCache) -> None:
    from reskd.common.video.clips import cut_clips
    from reskd.common.video.video_file import open_video
    from reskd.common.video.views import ViewParams

    experiment = load_experiment(str(tiny_cache.experiment))
    reader = CacheReader(tiny_cache.cache)
    index = read_index(experiment.data.index)
    teacher = Teacher(load_checkpoint(experiment.teacher.checkpoint)[0], torch.device("cpu"))
    for video, entry in enumerate(index.split("train")):
        row = reader.gather("views", [1], [video], reader.empty("views", 1))[0]
        with open_video(index.path_of(entry), "pyav") as opened:
            clip = cut_clips(opened, [ViewParams.from_row(row)], size=experiment.views.size)
        output = teacher.predict(clip).logits_BK.half().numpy()
        stored = reader.gather("logits", [1], [video], reader.empty("logits", 1))
        np.testing.assert_allclose(stored, output, rtol=2e-3, atol=1e-4)


def test_log_of_a_run_says_what_was_done_and_where_the_time_went(tiny_experiment: Path) -> None:
    cache = tiny_experiment.parent / "cache"
    assert main(["cache-teacher", str(tiny_experiment), "--cache", str(cache)]) == 0
    (run,) = read_runs(cache)
    assert (run["units"], run["videos"], run["clips"]) == (9, 9, 27)
    written = [path for path in cache.rglob("c/**/*") if path.is_file()]
    assert run["bytes"] == sum(path.stat().st_size for path in written)
    assert run["decode_seconds"] > 0
    assert run["write_seconds"] > 0
    # What waits for the writer is another thread, beside these.
    assert 0 < run["forward_seconds"] < run["wait_seconds"] + run["forward_seconds"]
    assert run["wait_seconds"] + run["forward_seconds"] < run["seconds"]


@pytest.mark.parametrize("after_commits", [0, 1, 4])
def test_kill_in_the_middle_then_the_same_command_ends_with_equal_bytes(
    tiny_cache: TinyCache, after_commits: int
) -> None:
    folder = tiny_cache.cache.with_name("killed")
    command = [
        sys.executable,
        "-m",
        "reskd.common.cli.main",
        "cache-teacher",
        str(tiny_cache.experiment),
    ]
    command += ["--cache", str(folder)]
    # As many threads as here, for records name their number.
    own = {"env": {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}}
    quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    with started(command, **quiet, **own) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (folder / "cache.json").exists() and len(list(folder.glob("commits/*.json"))) >= (
                after_commits
            ):
                process.kill()
            time.sleep(0.001)
    assert process.returncode == -signal.SIGKILL
    finished = read_commits(folder, 1, range(9))
    make_tiny_cache(tiny_cache.experiment, folder)
    assert len(finished) >= after_commits
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_leftovers_of_a_killed_writer_are_cleared(tiny_cache: TinyCache) -> None:
    leftover = tiny_cache.cache / "logits" / "c" / "0" / "1" / f"0.4711{PARTIAL_SUFFIX}"
    leftover.write_bytes(b"half")
    (tiny_cache.cache / commit_key(1, 1)).unlink()
    make_tiny_cache(tiny_cache.experiment, tiny_cache.cache)
    assert not leftover.exists()
    assert verify_cache(tiny_cache.cache, "bytes").findings == ()


def test_sigterm_ends_with_75_and_keeps_finished_units(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_experiment.parent / "cache"
    submit = writer.BackgroundWriter.submit

    def submit_then_stop(self: writer.BackgroundWriter, *arguments: Any) -> None:
        submit(self, *arguments)
        if self._meters.units == 2:  # the third one is being written
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(writer.BackgroundWriter, "submit", submit_then_stop)
    assert main(["cache-teacher", str(tiny_experiment), "--cache", str(folder)]) == 75
    # Batches that were finished by then may have completed further ones.
    assert 3 <= len(read_commits(folder, 1, range(9))) < 9
    assert not list(folder.rglob(f"*{PARTIAL_SUFFIX}"))


def test_full_disk_ends_with_5_and_goes_on_when_there_is_room(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_cache.cache.with_name("full")

    def full(path: Path, pieces: list[memoryview]) -> Path:
        if "features/c/0/2/" in path.as_posix():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write_partial(path, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_partial", full)
        assert main(["cache-teacher", str(tiny_cache.experiment), "--cache", str(folder)]) == 5
    assert "no space left" in capsys.readouterr().err
    assert sorted(read_commits(folder, 1, range(9))) == [0, 1]
    make_tiny_cache(tiny_cache.experiment, folder)
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_disk_that_is_too_small_is_refused_before_the_first_unit(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_experiment.parent / "cache"
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    experiment, plan = load_experiment(str(tiny_experiment)), plan_of(tiny_experiment)
    with pytest.raises(StoppedShortError, match=r"0\.0 MB are. Make room"):
        run_cache_teacher(experiment, plan, folder, OPTIONS)
    assert read_commits(folder, 1, range(9)) == {}


def test_unreadable_video_within_the_allowance_is_marked_and_never_read_as_zeros(
    tiny_experiment: Path,
) -> None:
    cut_off(training_videos(tiny_experiment)[4])
    folder = make_tiny_cache(tiny_experiment, tiny_experiment.parent / "cache", max_bad=0.2).cache
    reader = CacheReader(folder)
    assert list(reader.failed) == [4]
    assert 4 not in reader.usable_videos
    with pytest.raises(CacheError, match="video 4 was never written"):
        reader.gather("logits", [0], [4], reader.empty("logits", 1))
    assert verify_cache(folder, "bytes").findings == ()
    import zarr

    views = zarr.open_group(folder, mode="r")["views"]
    assert isinstance(views, zarr.Array)
    assert np.asarray(views[:, 4, -1]).tolist() == [FAILED] * 3


def test_too_many_unreadable_videos_stop_before_their_unit_is_committed(
    tiny_experiment: Path,
) -> None:
    bad = training_videos(tiny_experiment)[4]
    whole = bad.read_bytes()
    cut_off(bad)
    folder = tiny_experiment.parent / "cache"
    with pytest.raises(StoppedShortError, match=bad.name):
        make_tiny_cache(tiny_experiment, folder, max_bad=0.05)
    unit = CacheReader(folder).manifest.layout.locate(4)[0]
    assert unit > 0
    assert read_commit(folder, 1, unit - 1) is not None
    assert read_commit(folder, 1, unit) is None
    bad.write_bytes(whole)  # fixed: the same command goes on
    make_tiny_cache(tiny_experiment, folder)
    assert CacheReader(folder).failed == {}


def test_second_writer_of_a_cache_is_refused(tiny_cache: TinyCache) -> None:
    (tiny_cache.cache / commit_key(1, 0)).unlink()
    with sole_writer(tiny_cache.cache), pytest.raises(StoppedShortError, match="Process"):
        make_tiny_cache(tiny_cache.experiment, tiny_cache.cache)


def test_folder_with_other_files_is_refused_and_left_alone(tiny_experiment: Path) -> None:
    folder = tiny_experiment.parent / "cache"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(CacheError, match="is not empty"):
        make_tiny_cache(tiny_experiment, folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_cache_of_another_teacher_is_refused_with_the_field(tiny_cache: TinyCache) -> None:
    save_random_teacher(load_experiment(str(tiny_cache.experiment)), seed=2)
    with pytest.raises(CacheError, match=r"First difference: teacher\.weights_sha256"):
        make_tiny_cache(tiny_cache.experiment, tiny_cache.cache)


def test_more_views_than_the_cache_has_are_refused(tiny_cache: TinyCache) -> None:
    experiment = load_experiment(str(tiny_cache.experiment), ["views.count=4"])
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    with pytest.raises(CacheError, match=r"views\.count: the cache has 3, the experiment asks"):
        run_cache_teacher(experiment, plan, tiny_cache.cache, OPTIONS)


def test_teacher_of_other_classes_is_refused(tiny_experiment: Path) -> None:
    folder = load_experiment(str(tiny_experiment)).teacher.checkpoint
    model, info = load_checkpoint(folder)
    save_checkpoint(
        folder,
        model,
        role=info.role,
        spec=info.model,
        size=info.size,
        classes=("crawl", *info.classes[1:]),
        experiment=info.experiment,
    )
    with pytest.raises(DataError, match="was trained for 3 classes"):
        make_tiny_cache(tiny_experiment, tiny_experiment.parent / "cache")
    assert not (tiny_experiment.parent / "cache").exists()


def test_memory_budget_below_one_video_says_what_to_change(tiny_experiment: Path) -> None:
    experiment = load_experiment(str(tiny_experiment))
    with pytest.raises(DataError, match="Raise --memory"):
        plan_cache(experiment, read_index(experiment.data.index), memory_bytes=1000)
