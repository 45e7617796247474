"""Units through the pipeline: the same bytes in any batches, and nothing lost whatever fails."""

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor

from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.storage.records import read_record, write_record
from reskd.teacher_cache.fill import compute, cut, writer
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.fill.pipeline import fill_units as pipeline
from reskd.teacher_cache.fill.pipeline.lanes import Arrival, Lanes, Slot
from reskd.teacher_cache.format.commits import Commit, read_commits
from reskd.teacher_cache.format.layout import UNITS_IN_MEMORY
from reskd.teacher_cache.verify.recompute import Draw, verify_semantic
from reskd.teacher_cache.verify.repair import repair_cache
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.fill.test_engine import plan_of
from tests.teacher_cache.handling import OPTIONS, flip_a_bit, tree_of
from tests.tiny_experiment import CPU, TinyCache

UNITS = 9  # of one video and three views
VIDEO_BYTES = 3 * 3 * 3 * (48**2 + 24**2)  # views, frames, colours, teacher's and student's pixels
THREADS = ("decode", "finisher", "unit-writer")
Predict = Callable[[Teacher, Tensor], TeacherOutput]


def fill_again(cache: TinyCache, options: RunOptions = OPTIONS, name: str = "again") -> Path:
    """The cache of the same experiment beside it."""
    folder = cache.cache.with_name(name)
    experiment = load_experiment(str(cache.experiment))
    run_cache_teacher(experiment, plan_of(cache.experiment), folder, options)
    return folder


def objects_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree_of(folder).items() if "/c/" in name}


def commits_of(folder: Path) -> dict[int, Commit]:
    return read_commits(folder, 1, range(UNITS))


def batches_of(folder: Path) -> list[Any]:
    """By unit, clips that the teacher saw at once."""
    records = commits_of(folder).values()
    return [one.computed and one.computed.batch_clips for one in records]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Clips of every forward pass from now on."""
    sizes: list[int] = []
    predict = Teacher.predict

    def noting(teacher: Teacher, clips: Tensor) -> TeacherOutput:
        sizes.append(len(clips))
        return predict(teacher, clips)

    monkeypatch.setattr(Teacher, "predict", noting)
    return sizes


@pytest.mark.parametrize("size", [2, 3, 5, 32])
def test_batches_of_any_size_from_two_on_give_equal_objects(
    tiny_cache: TinyCache, seen: list[int], size: int
) -> None:
    folder = fill_again(tiny_cache, replace(OPTIONS, batch_clips=size))
    assert objects_of(folder) == objects_of(tiny_cache.cache)
    assert batches_of(folder) == [size] * UNITS
    assert set(seen) == {size}  # the last of a unit too
    assert verify_cache(folder, "bytes").findings == ()


def test_unit_is_repaired_in_the_batches_of_its_record(
    tiny_cache: TinyCache, seen: list[int]
) -> None:
    folder = fill_again(tiny_cache, replace(OPTIONS, batch_clips=5))
    whole = tree_of(folder)
    flip_a_bit(folder / "features/c/0/3/0/0/0/0")
    seen.clear()
    repair_cache(load_experiment(str(tiny_cache.experiment)), folder, OPTIONS)
    assert seen == [5]
    assert tree_of(folder) == whole


@pytest.mark.parametrize("damaged", ["features/c/0/3/0/0/0/0", "commits/000003.g1.json"])
def test_cache_without_such_records_is_repaired_to_its_very_bytes(
    tiny_cache: TinyCache, seen: list[int], damaged: str
) -> None:
    for record in (tiny_cache.cache / "commits").iterdir():
        body = read_record(record)
        del body["computed"]
        write_record(record, body)
    whole = tree_of(tiny_cache.cache)
    assert verify_cache(tiny_cache.cache, "bytes").findings == ()
    flip_a_bit(tiny_cache.cache / damaged)
    seen.clear()
    repair_cache(load_experiment(str(tiny_cache.experiment)), tiny_cache.cache, OPTIONS)
    assert seen == [3]  # the video by itself
    assert tree_of(tiny_cache.cache) == whole


@pytest.mark.parametrize("memory", [8, 2], ids=["one size", "another size in later units"])
def test_rows_are_verified_in_the_batches_of_their_records(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "predict", holds_at_most(memory, from_call=4))
        folder = fill_again(tiny_cache, replace(OPTIONS, batch_clips=6))
    sizes, predict = list[int](), Teacher.predict

    def noting(teacher: Teacher, clips: Tensor) -> TeacherOutput:
        sizes.append(len(clips))
        return predict(teacher, clips)

    monkeypatch.setattr(Teacher, "predict", noting)
    experiment, draw = load_experiment(str(tiny_cache.experiment)), Draw(seed=0, rows=3 * UNITS)
    report = verify_semantic(experiment, folder, draw, device=CPU, threads=1)
    assert report.findings == ()
    assert report.semantic is not None
    assert report.semantic.rows == 3 * UNITS
    # First what two live runs differ by: some clips alone, and eight at once.
    expected = {8: [6] * 5, 2: [6] * 2 + [1] * 6 * 3}[memory]
    assert sizes[sizes.index(8) + 9 :] == expected


def test_repair_says_when_a_unit_was_computed_elsewhere(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tiny_cache.cache / "commits/000003.g1.json"
    body = read_record(record)
    body["computed"]["device"] = "NVIDIA H100"
    write_record(record, body)
    flip_a_bit(tiny_cache.cache / "features/c/0/3/0/0/0/0")
    repair_cache(load_experiment(str(tiny_cache.experiment)), tiny_cache.cache, OPTIONS)
    assert "unit 3 was computed with device NVIDIA H100, here cpu" in capsys.readouterr().err
    assert read_record(record)["computed"]["device"].startswith("cpu")


def test_no_unit_is_committed_before_all_its_numbers_were_looked_at(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is late with the third unit: the two before it are there, and no more."""
    arrives, asked = threading.Event(), 0

    class Late(Arrival):
        def wait(self) -> dict[str, Tensor]:
            assert arrives.wait(30)
            return super().wait()

    def download(lanes: Lanes, slot: Slot, arrays: dict[str, Tensor]) -> Arrival:
        nonlocal asked
        asked += 1
        return Late(dict(arrays)) if asked == 3 else Arrival(dict(arrays))

    monkeypatch.setattr(Lanes, "download", download)
    folder = tiny_cache.cache.with_name("again")
    filling = threading.Thread(target=fill_again, args=(tiny_cache,))
    filling.start()
    deadline = time.monotonic() + 30
    while (not folder.exists() or len(commits_of(folder)) < 2) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.1)
    assert sorted(commits_of(folder)) == [0, 1]
    arrives.set()
    filling.join(30)
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_number_that_cannot_be_stored_ends_the_run_before_its_unit(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, calls = Teacher.predict, 0

    def infinite(teacher: Teacher, clips: Tensor) -> TeacherOutput:
        nonlocal calls
        calls += 1
        output = predict(teacher, clips)
        return output._replace(logits_BK=output.logits_BK + (torch.inf if calls == 4 else 0))

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "predict", infinite)
        with pytest.raises(DataError, match="The teacher's logits reach inf"):
            fill_again(tiny_cache)
    assert sorted(commits_of(tiny_cache.cache.with_name("again"))) == [0, 1, 2]
    assert tree_of(fill_again(tiny_cache)) == tree_of(tiny_cache.cache)


OUT_OF_MEMORY = {
    "torch": torch.OutOfMemoryError("CUDA out of memory."),
    "a library": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
}


def holds_at_most(clips: int, *, from_call: int = 1, says: str = "torch") -> Predict:
    """A forward pass on a device whose memory holds so many clips."""
    predict, calls = Teacher.predict, 0

    def small(teacher: Teacher, given: Tensor) -> TeacherOutput:
        nonlocal calls
        calls += 1
        if calls >= from_call and len(given) > clips:
            raise OUT_OF_MEMORY[says]
        return predict(teacher, given)

    return small


@pytest.mark.parametrize("says", OUT_OF_MEMORY)
def test_where_memory_ends_the_unit_is_computed_once_more_with_half_the_batch(
    says: str,
    tiny_cache: TinyCache,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Teacher, "predict", holds_at_most(2, from_call=4, says=says))
    folder = fill_again(tiny_cache)
    assert objects_of(folder) == objects_of(tiny_cache.cache)
    assert batches_of(folder) == [8] * 3 + [2] * 6
    said = capsys.readouterr().err
    assert "does not hold 8 clips for the teacher; unit 3 once more with 4" in said
    assert "does not hold 4 clips for the teacher; unit 3 once more with 2" in said
    assert "caching: 9/9 videos" in said


def test_memory_without_room_for_a_clip_ends_the_run_and_keeps_finished_units(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "predict", holds_at_most(0, from_call=4))
        with pytest.raises(StoppedShortError, match="does not hold a single clip of unit 3"):
            fill_again(tiny_cache)
    assert sorted(commits_of(tiny_cache.cache.with_name("again"))) == [0, 1, 2]
    assert tree_of(fill_again(tiny_cache)) == tree_of(tiny_cache.cache)


FAULTS = {
    "decoding": ("reskd.teacher_cache.fill.cut.draw_view", RuntimeError("no view"), RuntimeError),
    "the teacher": (
        "reskd.common.distill.teacher.Teacher.predict",
        RuntimeError("no kernel"),
        RuntimeError,
    ),
    "the device": (
        "reskd.common.distill.teacher.Teacher.predict",
        torch.AcceleratorError("CUDA error: unspecified launch failure\nand advice"),
        StoppedShortError,
    ),
    "a library of the device": (
        "reskd.common.distill.teacher.Teacher.predict",
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        StoppedShortError,
    ),
    "encoding": (
        "reskd.teacher_cache.fill.compute.encode_on_device",
        RuntimeError("no numbers"),
        RuntimeError,
    ),
    "putting": (
        "reskd.teacher_cache.fill.pipeline.keeper.UnitBuffers.put",
        MemoryError("no memory"),
        MemoryError,
    ),
    "writing": (
        "reskd.teacher_cache.fill.writer.write_partial",
        OSError(errno.EIO, "Input/output error"),
        OSError,
    ),
}


@pytest.mark.parametrize("stage", FAULTS)
def test_failure_of_any_stage_ends_the_run_and_the_same_command_goes_on(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    target, error, expected = FAULTS[stage]
    folder = tiny_cache.cache.with_name("again")
    module, _, name = target.rpartition(".")
    owner, attribute = (cut, "draw_view") if stage == "decoding" else _owner(module, name)
    real = getattr(owner, attribute)

    def fails_later(*args: Any, **kwargs: Any) -> Any:
        if len(commits_of(folder)) >= 2:
            raise error
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, fails_later)
        # Decoding runs ahead of the first commit unless it is held back.
        patch.setattr(cut, "LOOK_AHEAD_PER_THREAD", 1)
        with pytest.raises(expected):
            fill_again(tiny_cache)
    assert 2 <= len(commits_of(folder)) < UNITS
    assert not [one for one in threading.enumerate() if one.name.startswith(THREADS)]
    assert tree_of(fill_again(tiny_cache)) == tree_of(tiny_cache.cache)


def _owner(module: str, name: str) -> tuple[Any, str]:
    from importlib import import_module

    try:
        return import_module(module), name
    except ModuleNotFoundError:
        above, _, last = module.rpartition(".")
        return getattr(import_module(above), last), name


def test_no_more_units_are_in_memory_than_planned(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: WeakSet[Any] = WeakSet()
    most, init, write = 0, writer.UnitBuffers.__init__, writer.write_unit

    def counting(self: writer.UnitBuffers, *args: Any) -> None:
        nonlocal most
        init(self, *args)
        alive.add(self)
        most = max(most, len(alive))

    def slowly(*args: Any) -> Commit | None:
        time.sleep(0.02)  # so that all other stages wait for the writer
        return write(*args)

    monkeypatch.setattr(writer.UnitBuffers, "__init__", counting)
    monkeypatch.setattr(writer, "write_unit", slowly)
    fill_again(tiny_cache)
    assert most == UNITS_IN_MEMORY


@pytest.mark.parametrize(
    ("decoded_bytes", "expected"),
    [pytest.param(10**9, 8, id="videos"), pytest.param(4 * VIDEO_BYTES, 3, id="bytes")],
)
def test_decoding_runs_ahead_over_the_borders_of_units_as_far_as_its_bounds(
    tiny_cache: TinyCache,
    monkeypatch: pytest.MonkeyPatch,
    decoded_bytes: int,
    expected: int,
) -> None:
    """The teacher waits at the first unit: so many videos of other units are decoded meanwhile."""
    decoded: list[str] = []
    cut_video, begin = cut._cut_video, compute.begin_batch

    def noting(source: cut.ClipSource, size: int, way: Any, task: cut.CutTask) -> cut.CutVideo:
        video = cut_video(source, size, way, task)
        decoded.append(task.entry.id)
        return video

    def waiting(*args: Any, **kwargs: Any) -> Any:
        if len(decoded) <= expected:
            deadline = time.monotonic() + 10
            while len(decoded) < expected and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.05)
            counts.append(len(decoded))
        return begin(*args, **kwargs)

    counts: list[int] = []
    monkeypatch.setattr(cut, "_cut_video", noting)
    monkeypatch.setattr(pipeline, "begin_batch", waiting)
    options = replace(OPTIONS, threads=2, decoded_bytes=decoded_bytes)
    assert tree_of(fill_again(tiny_cache, options)) == tree_of(tiny_cache.cache)
    assert counts[0] == expected
