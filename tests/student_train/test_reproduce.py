"""The step that ended a run is kept, and computed again it goes wrong in the same place."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import load_experiment
from common.distill import encoding
from common.errors import DataError, StoppedShortError
from student_train import figures, runs, task
from student_train.reproduce import reproduce
from tests.tiny_experiment import ALONE, TinyCache


def _train(cache: TinyCache, run: Path, *overrides: str) -> None:
    runs.train_student(
        load_experiment(str(cache.experiment), overrides),
        run,
        cache=cache.cache,
        teacher="cached",
        distill=True,
        ranks=ALONE,
        max_bad=0.0,
        fresh=False,
        allow_incomplete=False,
        validate=False,
    )


def _diverge(cache: TinyCache, run: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Train on features that become infinite in the third step; what is said about it."""
    calls = []

    def spoiled(targets: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            targets["features"].fill_(float("inf"))
        return encoding.decode_features(targets)

    with monkeypatch.context() as patch:
        patch.setattr(task, "decode_features", spoiled)
        with pytest.raises(StoppedShortError, match="epoch 1, step 0, videos") as stop:
            _train(cache, run)
    return str(stop.value)


def test_step_with_infinite_loss_is_kept_and_found_again(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _diverge(tiny_cache, tmp_path / "run", monkeypatch)
    folder = tmp_path / "run" / "failure"
    assert f"python -m student_train.reproduce {folder}" in said
    found = reproduce(folder)
    assert found["problem"].startswith("The loss is nan (cross_entropy ")
    assert found["loss"].startswith("nan (cross_entropy ")
    assert found["not_finite"] == ["targets.features"]
    assert found["first_not_finite"] == ""  # the task as a whole; every layer of it is sound
    assert 0 < len(found["videos"]) <= 5


def test_reproducing_by_command_prints_what_was_found(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _diverge(tiny_cache, tmp_path / "run", monkeypatch)
    command = [sys.executable, "-m", "student_train.reproduce", str(tmp_path / "run" / "failure")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["not_finite"] == ["targets.features"]


def test_folder_without_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no step"):
        reproduce(tmp_path)


def test_exploding_loss_stops_the_run(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "EXPLODED", 0.5)
    monkeypatch.setattr(figures, "_ENOUGH_PARTS", 1)
    with pytest.raises(StoppedShortError, match="that of the epoch was far less at epoch 0"):
        _train(tiny_cache, tmp_path / "run")
