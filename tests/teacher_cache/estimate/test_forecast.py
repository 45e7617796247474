"""`reskd cache plan`: what is missing, hours from measured rates, and a disk that is too small."""

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
from reskd.teacher_cache.estimate.forecast import Forecast, forecast_cache
from reskd.teacher_cache.estimate.forecast_table import forecast_table, shown_hours, shown_time
from reskd.teacher_cache.fill.extend import extend_cache
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import read_manifest
from tests.teacher_cache.estimate.test_hours import MEASURED
from tests.teacher_cache.format.test_plan import files_under, plan_of, size_of
from tests.teacher_cache.handling import OPTIONS
from tests.tiny_experiment import CPU, TinyCache, save_random_teacher, training_videos


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


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


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
        array.name: size_of(files_under(tiny_cache.cache / array.name / "c"))
        for array in read_manifest(tiny_cache.cache).stored_arrays
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
        "row_checksums": size_of([cache / "row_checksums/c/1/3/0"]),
        "logit_map": size_of([cache / f"logit_map/c/{block}/5/0/0/0/0" for block in (0, 1)]),
        "row_checksums.g3": size_of([cache / f"row_checksums.g3/c/{n}/5/0" for n in (0, 1)]),
    }
    assert (facts["objects"], facts["files"]) == (6 + 4, 6 + 4 + 2)
    assert forecast.plan.work.clips == 3 + 6
    assert forecast.plan.whole_work.bytes_by_array == whole


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.05, "50.0 ms"), (59, "59.0 s"), (90, "1.5 min"), (36 * 3600, "36.0 h"), (3e5, "3.5 days")],
)
def test_times_are_shown_in_a_sensible_unit(seconds: float, shown: str) -> None:
    assert shown_time(seconds / 3600) == shown


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
        + max(facts["hours"][part] for part in ("decode", "teacher", "write", "processor"))
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


def test_command_plans_for_several_machines(
    tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast_module, "measure_speed", lambda *_, **__: MEASURED)
    one = ["cache", "plan", str(tiny_experiment), "--device", "cpu", "--threads", "4"]
    alone = json_of(capsys, *one)
    command = [*one, "--devices", "2", "--nodes", "3", "--network", "0.001"]
    facts = json_of(capsys, *command)
    # Nine units of one video: the busiest of three machines has three, its busiest worker two.
    assert facts["hours"]["decode"] * 3600 == pytest.approx(2 * 0.2 * 2)
    assert facts["hours"]["teacher"] * 3600 == pytest.approx(2 * 3 * 0.1)
    files = sum(path.stat().st_size for path in training_videos(tiny_experiment)) / 9
    crossing = (facts["disk_bytes"] + 9 * files) / 3
    assert facts["hours"]["network"] * 3600 == pytest.approx(crossing / 125_000)
    assert alone["hours"]["network"] == 0
    assert facts["break_even"] == alone["break_even"]
    assert (facts["machines"]["nodes"], facts["machines"]["devices"]) == (3, 2)
    assert main([*map(str, command)]) == 0
    text = capsys.readouterr().out
    assert "6 workers, 2 on each of 3 machines like this one" in text
    assert "the busiest worker has 2 of 9 units" in text
    assert f"{facts['hours']['bound']} bounds it" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("overrides", "clips"),
    [([], 0), (["teacher.precision=bfloat16"], 27), (["teacher.precision=tf32"], 0)],
)
def test_check_of_the_precision_is_counted(
    tiny_experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    clips: int,
) -> None:
    """Of nine videos three views each; nothing is compared where a CPU computes in float32."""
    monkeypatch.setattr(forecast_module, "measure_speed", lambda *_, **__: MEASURED)
    options = [text for override in overrides for text in ("-o", override)]
    facts = json_of(capsys, "cache", "plan", tiny_experiment, "--device", "cpu", *options)
    write = facts["disk_bytes"] / MEASURED.write_bytes_per_second
    assert facts["hours"]["start"] * 3600 == pytest.approx(5 + write / 9 + clips * 2 * 0.08)


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


@pytest.mark.parametrize(
    ("hours", "shown"),
    [(0.0, "under 0.01"), (0.0099, "under 0.01"), (0.01, "0.01"), (1.25, "1.25"), (720, "720.00")],
)
def test_short_work_is_not_shown_as_no_hours(hours: float, shown: str) -> None:
    assert shown_hours(hours) == shown
