"""A measurement gives every speed, names what it passed over, and leaves nothing behind."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from reskd.common.dataset.index import read_index
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.errors import DataError, PreemptedError
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.estimate import probe
from reskd.teacher_cache.estimate.forecast import Forecast, forecast_cache
from reskd.teacher_cache.estimate.probe import Preprocess, ProbeRun
from reskd.teacher_cache.fill import compute, writer
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.pipeline import fill_units as pipeline
from reskd.teacher_cache.fill.writer import UnitBuffers
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.plan import plan_cache
from tests.tiny_experiment import CPU, TinyCache, cut_off


def forecast_of(
    experiment_file: Path,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    seconds: float = 30.0,
    preprocess: Preprocess = "cpu",
) -> Forecast:
    """The videos are used up long before the time limit, unless it is set lower."""
    experiment = load_experiment(str(experiment_file), overrides)
    index = read_index(experiment.data.index)
    return forecast_cache(
        experiment,
        index,
        plan_cache(experiment, index, memory_bytes=10**9),
        folder=folder or experiment_file.parent / "cache",
        device=CPU,
        threads=2,
        preprocess=preprocess,
        seconds=seconds,
    )


def tree_of(folder: Path) -> dict[Path, int]:
    """Everything in a folder, with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def training_videos(experiment_file: Path) -> dict[str, Path]:
    index = read_index(load_experiment(str(experiment_file)).data.index)
    return {entry.id: index.path_of(entry) for entry in index.split("train")}


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="default"),
        pytest.param(["teacher.mode=batch"], id="batch"),
        pytest.param(["targets.codec=zstd", "targets.logit_map={top_k: 2}"], id="zstd"),
        pytest.param(
            ["targets.features=null", "targets.logits=null", "student.losses.feature_mse=0"],
            id="frames-alone",
        ),
    ],
)
def test_measurement_gives_every_speed_and_leaves_nothing(
    tiny_experiment: Path, overrides: list[str]
) -> None:
    before = tree_of(tiny_experiment.parent)
    forecast = forecast_of(tiny_experiment, overrides)
    assert tree_of(tiny_experiment.parent) == before
    measured, hours = forecast.measured, forecast.hours
    assert measured is not None
    assert hours is not None
    assert measured.decode_seconds_per_video > 0
    assert measured.view_seconds > 0
    assert measured.write_bytes_per_second > 0
    assert (measured.forward_seconds_per_clip > 0) == ("targets.features=null" not in overrides)
    assert measured.teacher_seconds_per_clip >= measured.forward_seconds_per_clip
    assert 1 <= measured.videos_probed <= 9
    assert measured.views_probed == 3
    assert measured.unreadable == {}
    assert hours.wall > 0


def test_views_are_cut_on_the_device_where_that_is_asked_for(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()

    def noting(job: Job, *args: Any, **named: Any) -> None:
        asked.add(job.options.preprocess)
        pipeline.fill_units(job, *args, **named)

    monkeypatch.setattr(probe, "fill_units", noting)
    assert forecast_of(tiny_experiment, preprocess="device").measured is not None
    assert asked == {"device"}


def test_writer_that_is_the_slowest_takes_nothing_from_the_teacher(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it writes the teacher goes on; only where it waits for the writer it has no work."""
    begin_batch, write_unit = compute.begin_batch, writer.write_unit

    def slow_teacher(*args: Any, **named: Any) -> Any:
        time.sleep(0.05)
        return begin_batch(*args, **named)

    def slow_writer(*args: Any) -> Any:
        time.sleep(0.1)
        return write_unit(*args)

    monkeypatch.setattr(pipeline, "begin_batch", slow_teacher)
    monkeypatch.setattr(writer, "write_unit", slow_writer)
    measured = forecast_of(tiny_experiment, ["views.count=1"]).measured
    assert measured is not None
    # A clip to a unit. Threads count at not quite the same moment.
    assert measured.teacher_seconds_per_clip > 0.7 * 0.05


@pytest.mark.parametrize(
    ("meters", "shares"),
    [
        pytest.param(
            {"decode_seconds": 4.0, "forward_seconds": 6.0, "wait_seconds": 1.0},
            (0.2, 1.0),
            id="teacher",
        ),
        pytest.param(
            {"decode_seconds": 19.0, "forward_seconds": 4.0, "wait_seconds": 5.0},
            (1.0, 0.5),
            id="decode",
        ),
        # Rows wait for the writer nearly always; the teacher is held for four seconds.
        pytest.param(
            {
                "decode_seconds": 4.0,
                "forward_seconds": 5.0,
                "stall_seconds": 9.0,
                "hold_seconds": 4.0,
            },
            (0.2, 0.6),
            id="write-then-teacher",
        ),
        pytest.param(
            {
                "decode_seconds": 12.0,
                "forward_seconds": 2.0,
                "stall_seconds": 9.0,
                "hold_seconds": 7.0,
            },
            (0.6, 0.3),
            id="write-then-decode",
        ),
        # The teacher waits for what is behind it, which is no writer: that is its own work.
        pytest.param(
            {"decode_seconds": 4.0, "forward_seconds": 5.0, "hold_seconds": 4.0},
            (0.2, 1.0),
            id="rows-put-away",
        ),
    ],
)
def test_slowest_gets_the_time_between_videos_less_what_the_writer_holds(
    meters: dict[str, Any], shares: tuple[float, float]
) -> None:
    run = ProbeRun(
        steady=FillMeters(seconds=10.0, videos=10, clips=30, **meters),
        whole=FillMeters(),
        processor_seconds=0.0,
        threads=2,
        stored_fraction={},
    )
    assert run.shares == pytest.approx(shares)


def test_rows_without_a_codec_take_the_planned_bytes(tiny_experiment: Path) -> None:
    facts = forecast_of(tiny_experiment).as_dict()
    assert set(facts["probe"]["stored_fraction"].values()) == {1.0}
    assert facts["disk_bytes"] == facts["bytes"]


def test_compressed_rows_are_estimated_from_those_written(tiny_experiment: Path) -> None:
    facts = forecast_of(tiny_experiment, ["targets.codec=zstd"]).as_dict()
    assert 0 < facts["disk_bytes"] < facts["bytes"]


@pytest.mark.parametrize(
    "part",
    [
        "estimate.probe.create_cache",
        "fill.pipeline.fill_units.begin_batch",
        "fill.writer.write_unit",
    ],
)
def test_measurement_that_fails_leaves_nothing(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    before = tree_of(tiny_experiment.parent)
    monkeypatch.setattr(f"reskd.teacher_cache.{part}", fail)
    with pytest.raises(OSError, match="Input/output"):
        forecast_of(tiny_experiment)
    assert tree_of(tiny_experiment.parent) == before


def test_unit_that_cannot_be_written_ends_the_measurement_and_leaves_nothing(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, _: Any) -> None:
        raise OSError(28, "No space left on device", str(folder))

    before = tree_of(tiny_experiment.parent)
    monkeypatch.setattr(writer, "write_commit", full)
    with pytest.raises(OSError, match="No space"):
        forecast_of(tiny_experiment)
    assert tree_of(tiny_experiment.parent) == before


def test_sigterm_ends_the_measurement_and_leaves_nothing(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = UnitBuffers.put

    def stopped(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        put(*arguments)

    before = tree_of(tiny_experiment.parent)
    monkeypatch.setattr(UnitBuffers, "put", stopped)
    with pytest.raises(PreemptedError):
        forecast_of(tiny_experiment)
    assert tree_of(tiny_experiment.parent) == before


def test_unreadable_videos_are_passed_over_and_named(tiny_experiment: Path) -> None:
    videos = training_videos(tiny_experiment)
    bad = list(videos)[4]
    cut_off(videos[bad])
    measured = forecast_of(tiny_experiment).measured
    assert measured is not None
    assert list(measured.unreadable) == [bad]
    assert measured.videos_probed == 8


def test_no_readable_video_gives_counts_and_the_reason(tiny_experiment: Path) -> None:
    for video in training_videos(tiny_experiment).values():
        video.unlink()
    forecast = forecast_of(tiny_experiment)
    assert forecast.hours is None
    assert "none of 9 videos can be read" in str(forecast.why_not)
    assert forecast.as_dict()["bytes"] > 0


def test_folder_that_takes_no_file_gives_counts_and_the_reason(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("reskd.teacher_cache.estimate.probe.partial_name", refused)
    forecast = forecast_of(tiny_experiment)
    assert forecast.hours is None
    assert "nothing can be written" in str(forecast.why_not)


def test_small_units_of_a_slow_teacher_are_not_filled_up(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, predict = list[int](), Teacher.predict

    def noting(teacher: Teacher, clips: Tensor) -> TeacherOutput:
        seen.append(len(clips))
        return predict(teacher, clips)

    monkeypatch.setattr(Teacher, "predict", noting)
    measured = forecast_of(tiny_experiment, seconds=1e-6).measured
    assert measured is not None
    assert set(seen) == {1}  # a view of a video; a batch would have 8


def test_teacher_that_is_too_slow_is_shown_fewer_views(tiny_experiment: Path) -> None:
    measured = forecast_of(tiny_experiment, seconds=1e-6).measured
    assert measured is not None
    assert measured.views_probed == 1
    assert measured.decode_seconds_per_video > 0


def test_time_limit_ends_the_measurement_before_the_videos_are_used_up(
    tiny_experiment: Path,
) -> None:
    measured = forecast_of(tiny_experiment, ["views.count=1"], seconds=1e-6).measured
    assert measured is not None
    assert measured.videos_probed < 9


def test_damaged_checkpoint_is_an_error_not_a_missing_measurement(tiny_experiment: Path) -> None:
    folder = load_experiment(str(tiny_experiment)).teacher.checkpoint
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="Cannot read the weights"):
        forecast_of(tiny_experiment)


def test_unfinished_cache_is_not_touched_by_the_measurement(tiny_cache: TinyCache) -> None:
    (tiny_cache.cache / commit_key(1, 0)).unlink()
    before = tree_of(tiny_cache.cache.parent)
    forecast = forecast_of(tiny_cache.experiment, folder=tiny_cache.cache)
    assert tree_of(tiny_cache.cache.parent) == before
    assert forecast.hours is not None
    assert forecast.pays is not None
    # What is left to do costs less than the cache that it is compared by.
    assert forecast.hours.wall < forecast.pays.cached_hours
