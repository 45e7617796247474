"""Counts and bytes against what is written, hours and break-even against hand-made sums."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.estimate import forecast as forecast_module
from reskd.teacher_cache.estimate.forecast import (
    Forecast,
    forecast_cache,
    forecast_table,
    shown_time,
)
from reskd.teacher_cache.estimate.hours import MeasuredSpeed, break_even, disk_bytes, predict_hours
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.extend import extend_cache
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.plan import (
    CachePlan,
    Work,
    plan_cache,
    plan_table,
    shown_bytes,
    target_of,
)
from tests.tiny_experiment import CPU, TinyCache, save_random_teacher

OPTIONS = RunOptions(max_bad=0.0, threads=1, device=CPU, force=False)
MEASURED = MeasuredSpeed(
    start_seconds=5.0,
    decode_seconds_per_video=0.2,
    teacher_seconds_per_clip=0.1,
    forward_seconds_per_clip=0.08,
    view_seconds=0.05,
    write_bytes_per_second=1000.0,
    stored_fraction={"features": 0.5},
    videos_probed=7,
    views_probed=3,
    unreadable={"run/7.mp4": "it is a text file"},
    seconds=12.0,
)


def plan_of(experiment_file: Path, overrides: Sequence[str] = ()) -> CachePlan:
    experiment = load_experiment(str(experiment_file), overrides)
    return plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)


def unmeasured(experiment_file: Path, folder: Path, overrides: Sequence[str] = ()) -> Forecast:
    experiment = load_experiment(str(experiment_file), overrides)
    return forecast_cache(
        experiment,
        read_index(experiment.data.index),
        plan_of(experiment_file, overrides),
        folder=folder,
        device=CPU,
        threads=1,
        measure=False,
    )


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def size_of(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="default"),
        pytest.param(["targets.features={dtype: int8}"], id="int8"),
        pytest.param(["targets.features={dtype: int8, grid: teacher}"], id="teacher-grid"),
        pytest.param(["targets.logit_map={}"], id="dense-map"),
        pytest.param(["targets.logit_map={top_k: 2}", "targets.frames=null"], id="top-k-map"),
    ],
)
def test_planned_bytes_and_files_are_those_written(
    tiny_experiment: Path, overrides: list[str]
) -> None:
    folder = tiny_experiment.parent / "cache"
    plan = plan_of(tiny_experiment, overrides)
    experiment = load_experiment(str(tiny_experiment), overrides)
    run_cache_teacher(experiment, plan, folder, OPTIONS)
    facts = plan.as_dict()
    written = {name: size_of(files_under(folder / name / "c")) for name in facts["bytes_by_array"]}
    assert facts["bytes_by_array"] == written
    assert facts["bytes"] == sum(written.values()) == sum(facts["bytes_by_target"].values())
    assert facts["bytes_by_target"]["features"] == sum(
        size for name, size in written.items() if name.startswith("feature")
    )
    assert facts["files"] == len(files_under(folder))
    assert facts["objects"] == sum(len(files_under(folder / name / "c")) for name in written)
    assert facts["teacher_clips"] == 9 * 3


def test_compressed_objects_stay_below_the_planned_bytes(tiny_experiment: Path) -> None:
    folder, overrides = tiny_experiment.parent / "cache", ["targets.codec=zstd"]
    plan = plan_of(tiny_experiment, overrides)
    run_cache_teacher(load_experiment(str(tiny_experiment), overrides), plan, folder, OPTIONS)
    written = [path for path in files_under(folder) if "c" in path.relative_to(folder).parts]
    assert size_of(written) < plan.as_dict()["bytes"]
    assert "upper bound" in plan_table(plan)


def test_unfinished_cache_counts_only_what_is_missing(tiny_cache: TinyCache) -> None:
    for unit in (1, 4):
        (tiny_cache.cache / commit_key(1, unit)).unlink()
    facts = unmeasured(tiny_cache.experiment, tiny_cache.cache).as_dict()
    missing = [*tiny_cache.cache.glob("*/c/0/1/**/0"), *tiny_cache.cache.glob("*/c/0/4/**/0")]
    objects = [path for path in missing if path.is_file()]
    objects += [
        tiny_cache.cache / "feature_residual" / "c" / "0" / unit for unit in ("1", "4")
    ]  # a row of no dimensions: the unit itself is the file
    assert facts["bytes"] == size_of(objects)
    assert (facts["objects"], facts["files"]) == (len(objects), len(objects) + 2)
    assert (facts["units"], facts["units_to_do"], facts["teacher_clips"]) == (9, 2, 2 * 3)
    assert facts["goes_on"] is True


def test_finished_cache_has_nothing_left_to_do(tiny_cache: TinyCache) -> None:
    facts = unmeasured(tiny_cache.experiment, tiny_cache.cache).as_dict()
    assert facts["bytes"] == facts["files"] == facts["teacher_clips"] == facts["units_to_do"] == 0


def test_extended_cache_counts_the_missing_units_of_every_run(tiny_cache: TinyCache) -> None:
    experiment = load_experiment(str(tiny_cache.experiment))
    extend_cache(experiment, tiny_cache.cache, views=6, targets=["logit_map"], options=OPTIONS)
    whole = {
        name: size_of(files_under(tiny_cache.cache / name / "c"))
        for name in plan_of(tiny_cache.experiment, ["targets.logit_map={}"]).bytes_by_array
    }
    (tiny_cache.cache / commit_key(2, 3)).unlink()
    (tiny_cache.cache / commit_key(3, 5)).unlink()
    forecast = unmeasured(tiny_cache.experiment, tiny_cache.cache)
    facts, cache = forecast.as_dict(), tiny_cache.cache
    assert (facts["views"], facts["units_to_do"]) == (6, 2)
    # Of the second run the second block of unit 3; of the third both blocks of unit 5.
    assert facts["bytes_by_array"] == {
        "logits": size_of([cache / "logits/c/1/3/0"]),
        "features": size_of([cache / "features/c/1/3/0/0/0/0"]),
        "feature_residual": size_of([cache / "feature_residual/c/1/3"]),
        "frames": size_of([cache / "frames/c/1/3/0/0/0/0"]),
        "views": size_of([cache / "views/c/1/3/0"]),
        "logit_map": size_of([cache / f"logit_map/c/{block}/5/0/0/0/0" for block in (0, 1)]),
    }
    assert (facts["objects"], facts["files"]) == (5 + 2, 5 + 2 + 2)
    assert forecast.plan.work.clips == 3 + 6
    assert forecast.plan.whole_work.bytes_by_array == whole


def test_targets_from_the_video_alone_ask_the_teacher_nothing(tiny_experiment: Path) -> None:
    overrides = ["targets.features=null", "targets.logits=null", "student.losses.feature_mse=0"]
    facts = plan_of(tiny_experiment, overrides).as_dict()
    assert facts["teacher_clips"] == 0
    assert list(facts["bytes_by_target"]) == ["frames", "views"]


def test_hours_are_those_of_the_slowest_part() -> None:
    work = Work(videos=90, clips=720, units=9, bytes_by_array={"features": 12000, "views": 3000})
    hours = predict_hours(work, MEASURED, gate_videos=50)
    assert disk_bytes(work, MEASURED) == 9000
    assert hours.decode * 3600 == pytest.approx(18)
    assert hours.teacher * 3600 == pytest.approx(72)
    assert hours.write * 3600 == pytest.approx(9)
    # Loading, 50 checked clips, of which the teacher is slower than decoding, and the last unit.
    assert hours.start * 3600 == pytest.approx(5 + 50 * 0.08 + 1)
    assert hours.wall * 3600 == pytest.approx(10 + 72)


def test_nothing_to_do_takes_the_start_alone() -> None:
    work = Work(videos=0, clips=0, units=0, bytes_by_array={"features": 0})
    assert predict_hours(work, MEASURED).wall * 3600 == pytest.approx(5)


def test_break_even_with_stored_frames_matches_hand_values() -> None:
    pays = break_even(epochs=30, students=2, videos=100, online_seconds=0.5, cache_seconds=1000)
    assert pays.online_hours == pytest.approx(3000 / 3600)
    assert pays.cached_hours == pytest.approx(1000 / 3600)
    assert pays.ratio == pytest.approx(3)
    assert pays.pays_from_epoch == 20  # of 50 s each


def test_break_even_without_stored_frames_counts_the_students_decoding() -> None:
    pays = break_even(
        epochs=30,
        students=2,
        videos=100,
        online_seconds=0.5,
        cache_seconds=1000,
        epoch_seconds=0.1,
    )
    assert pays.cached_hours == pytest.approx(1600 / 3600)
    assert pays.pays_from_epoch == 25  # an epoch saves 40 s


@pytest.mark.parametrize(("cache_seconds", "epoch"), [(0.0, 1), (49.0, 1), (50.0, 1), (51.0, 2)])
def test_cache_pays_in_the_first_epoch_that_costs_as_much(cache_seconds: float, epoch: int) -> None:
    pays = break_even(
        epochs=1, students=1, videos=100, online_seconds=0.5, cache_seconds=cache_seconds
    )
    assert pays.pays_from_epoch == epoch


def test_cache_that_saves_nothing_never_pays() -> None:
    pays = break_even(
        epochs=9,
        students=1,
        videos=100,
        online_seconds=0.5,
        cache_seconds=1.0,
        epoch_seconds=0.5,
    )
    assert pays.pays_from_epoch is None


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (999, "999 B"), (206_500, "206.5 kB"), (7.2e11, "720.0 GB"), (1e13, "10.0 TB")],
)
def test_bytes_are_shown_in_a_sensible_unit(number: float, shown: str) -> None:
    assert shown_bytes(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.05, "50.0 ms"), (59, "59.0 s"), (90, "1.5 min"), (36 * 3600, "36.0 h"), (3e5, "3.5 days")],
)
def test_times_are_shown_in_a_sensible_unit(seconds: float, shown: str) -> None:
    assert shown_time(seconds / 3600) == shown


@pytest.mark.parametrize(
    ("array", "target"),
    [("feature_scale", "features"), ("logit_map_rest", "logit_map"), ("views", "views")],
)
def test_every_array_belongs_to_a_target(array: str, target: str) -> None:
    assert target_of(array) == target


def test_command_prints_hours_and_break_even_from_the_measured_rates(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast_module, "measure_speed", lambda *_, **__: MEASURED)
    command = ("cache", "plan", tiny_experiment, "--device", "cpu", "--students", "2")
    facts = json_of(capsys, *command, "--epochs", "4")
    assert facts["hours"]["decode"] * 3600 == pytest.approx(9 * 0.2)
    assert facts["hours"]["teacher"] * 3600 == pytest.approx(27 * 0.1)
    assert facts["hours"]["wall"] == pytest.approx(
        facts["hours"]["start"]
        + max(facts["hours"][part] for part in ("decode", "teacher", "write"))
    )
    assert facts["break_even"]["online_hours"] * 3600 == pytest.approx(2 * 4 * 9 * 0.08)
    assert facts["break_even"]["cached_hours"] == pytest.approx(facts["hours"]["wall"])
    assert facts["probe"]["videos_probed"] == 7
    assert Path(facts["disk"]).is_absolute()
    assert facts["fits"] is True
    assert main([*map(str, command)]) == 0
    text = capsys.readouterr().out
    assert "unreadable: run/7.mp4" in text
    assert max(map(len, text.splitlines())) <= 100


def test_plan_without_a_teacher_s_checkpoint_gives_counts_and_says_why_no_hours(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(load_experiment(str(tiny_experiment)).teacher.checkpoint)
    facts = json_of(capsys, "cache", "plan", tiny_experiment)
    assert facts["bytes"] > 0
    assert facts["probe"] is facts["hours"] is facts["break_even"] is None
    assert "there is no teacher in" in facts["no_probe_because"]


def test_no_probe_gives_counts_alone(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json_of(capsys, "cache", "plan", tiny_experiment, "--no-probe")
    assert facts["hours"] is None
    assert facts["device"] == "cpu"


def test_disk_that_is_too_small_is_told_and_what_to_do(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tiny_experiment.parent)
    need = plan_of(tiny_experiment).as_dict()["bytes"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(1.1 * need)))
    forecast = unmeasured(tiny_experiment, tiny_experiment.parent / "deep" / "cache")
    assert forecast.disk == tiny_experiment.parent
    assert forecast.as_dict()["fits"] is False
    assert "Make room" in forecast_table(forecast)


def test_cache_of_another_teacher_is_refused(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    save_random_teacher(load_experiment(str(tiny_cache.experiment)), seed=2)
    command = ["cache", "plan", str(tiny_cache.experiment), "--cache", str(tiny_cache.cache)]
    assert main(command) == 4
    assert "teacher.weights_sha256" in capsys.readouterr().err


def test_folder_with_other_files_is_refused_and_left_alone(tiny_experiment: Path) -> None:
    folder = tiny_experiment.parent / "thesis"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    command = ["cache", "plan", str(tiny_experiment), "--cache", str(folder), "--no-probe"]
    assert main(command) == 4
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_quick_plan_of_cache_teacher_names_the_command_for_the_hours(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache-teacher", str(tiny_experiment), "--plan"]) == 0
    assert "`reskd cache plan`" in capsys.readouterr().out
