"""The step that ended a run is kept, and computed again it goes wrong in the same place."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from reskd.common.distill import encoding
from reskd.common.errors import DataError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint, read_checkpoint_info
from reskd.student_train.train import meters, runs, teacher_terms
from reskd.student_train.train.reproduce import recovery_hint, reproduce
from tests.tiny_experiment import ALONE, TinyCache


def _train(
    cache: TinyCache, run: Path, *overrides: str, replace: str | None = None, validate: bool = False
) -> None:
    runs.train_student(
        load_experiment(str(cache.experiment), overrides),
        run,
        cache=cache.cache,
        teacher="cached",
        distill=True,
        processes=ALONE,
        max_bad=0.0,
        fresh=False,
        replace=replace,
        allow_incomplete=False,
        validate=validate,
    )


def _diverge(
    cache: TinyCache,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    *overrides: str,
    validate: bool = False,
) -> str:
    """Train on features that become infinite in the third part; what is said about it."""
    calls = []

    def spoiled(targets: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            targets["features"].fill_(float("inf"))
        return encoding.decode_features(targets)

    with monkeypatch.context() as patch:
        patch.setattr(teacher_terms, "decode_features", spoiled)
        with pytest.raises(StoppedShortError, match=r"epoch \d, step \d, videos") as stop:
            _train(cache, run, *overrides, validate=validate)
    return str(stop.value)


def test_step_with_infinite_loss_is_kept_and_found_again(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _diverge(tiny_cache, tmp_path / "run", monkeypatch)
    folder = tmp_path / "run" / "failure"
    assert " at epoch 1, step 0, videos " in said
    assert f"python -m reskd.student_train.train.reproduce {folder}" in said
    found = reproduce(folder)
    assert found["problem"].startswith("The loss is nan (cross_entropy ")
    assert found["loss"].startswith("nan (cross_entropy ")
    assert found["not_finite"] == ["targets.features"]
    assert found["first_not_finite"] == ""  # the task as a whole; every layer of it is sound
    assert 0 < len(found["videos"]) <= 5
    assert (found["precision"], found["notes"]) == ("float32", [])


def test_reproducing_by_command_prints_what_was_found(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _diverge(tiny_cache, tmp_path / "run", monkeypatch)
    command = [
        sys.executable,
        "-m",
        "reskd.student_train.train.reproduce",
        str(tmp_path / "run" / "failure"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout, parse_constant=pytest.fail)  # JSON has no word for nan
    assert (found["not_finite"], found["gradient_norm"]) == (["targets.features"], "nan")


@pytest.mark.parametrize("group", ["null", "2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_is_computed_again_in_precision_and_groups_of_the_run(
    tiny_cache: TinyCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    group: str,
) -> None:
    options = (
        f"student.training.precision={precision}",
        f"student.training.batchnorm_group={group}",
    )
    _diverge(tiny_cache, tmp_path / "run", monkeypatch, *options)
    found = reproduce(tmp_path / "run" / "failure")
    assert found["precision"] == precision
    assert found["problem"] == f"The loss is {found['loss']}"  # to four digits


def test_buffers_that_the_failing_step_wrote_are_not_taken_for_its_cause(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    # One step at this rate makes weights whose outputs overflow in the next one.
    wild = "student.training.optimizer={name: sgd, lr: 1.0e+30, clip_norm: null}"
    with pytest.raises(StoppedShortError) as stop:
        _train(tiny_cache, tmp_path / "run", wild)
    assert "at epoch 0, step 1, videos" in str(stop.value)
    found = reproduce(tmp_path / "run" / "failure")
    assert found["not_finite"] == []
    assert any("running_var" in name for name in found["buffers_not_finite"])
    assert "not what it met" in found["notes"][0]

    assert "No state was saved before, so the same command with a lower" in str(stop.value)
    _train(tiny_cache, tmp_path / "run")


def test_part_of_a_step_of_several_is_said_to_be_one(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _diverge(tiny_cache, tmp_path / "run", monkeypatch, "student.training.accumulation=2")
    [note] = reproduce(tmp_path / "run" / "failure")["notes"]
    assert note.startswith("The step had 2 parts")


def test_ways_that_a_diverged_run_names_lead_on(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gentle = tmp_path / "run", "student.training.optimizer.lr=0.0001"
    said = _diverge(tiny_cache, run, monkeypatch, "evaluation.interval=1", validate=True)
    [state] = (run / "states").iterdir()
    assert f"The run after {int(state.name)} steps is on disk, {state}" in said
    with pytest.raises(DataError, match="another recipe"):
        _train(tiny_cache, run, gentle)
    start, *more = re.findall(r"-o (\S+)", said)
    assert start == f"student.model.start={run / 'best'}"
    other = tmp_path / "other"
    _train(tiny_cache, other, gentle, start, *more)
    assert read_checkpoint_info(other).experiment["student"]["model"]["start"] == str(run / "best")
    _train(tiny_cache, run, gentle, replace=run.name)
    assert load_checkpoint(run)[1].role == "student"


def test_ways_on_without_a_best_network_name_none(tmp_path: Path) -> None:
    for name in ("000000009", "000000010", "000000011.77.partial"):
        (tmp_path / "states" / name).mkdir(parents=True)
    said = recovery_hint(tmp_path)
    assert "The run after 10 steps is on disk" in said
    assert f"--fresh --replace {tmp_path.name} or train in another one with --run." in said


def test_folder_without_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no step"):
        reproduce(tmp_path)


def test_exploding_loss_stops_the_run(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meters, "EXPLODED", 0.5)
    monkeypatch.setattr(meters, "_ENOUGH_PARTS", 1)
    with pytest.raises(StoppedShortError, match="that of the epoch was far less at epoch 0"):
        _train(tiny_cache, tmp_path / "run")
