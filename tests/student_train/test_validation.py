"""A run measures itself while it trains, keeps the best network, and measures nothing twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.checkpoints import load_checkpoint
from common.config import load_experiment
from common.errors import PreemptedError
from common.video.index import read_index, write_index
from student_train import runs, validation
from student_train.run_log import read_events
from teacher_cache.reader import CacheReader
from tests.tiny_experiment import ALONE, TinyCache

INTERVAL = 2
EPOCHS = 5


class Measurements:
    """Stands for measuring: gives one figure after another, and counts."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.protocols: list[int] = []

    def __call__(self, model: Any, experiment: Any, index: Any, **how: Any) -> dict[str, Any]:
        assert how["split"] == "val"
        self.protocols.append(experiment.evaluation.clips)
        value = self.values.pop(0)
        figures = dict.fromkeys(validation.LOGGED, value)
        return {**figures, "metric": "top1", "videos": 9, "failed": 0, "protocol": "as told"}


def _train(cache: TinyCache, run: Path, **options: Any) -> dict[str, Any]:
    overrides = [f"student.training.epochs={EPOCHS}", f"evaluation.interval={INTERVAL}"]
    arguments: dict[str, Any] = {
        "cache": cache.cache,
        "teacher": "cached",
        "distill": True,
        "ranks": ALONE,
        "max_bad": 0.0,
        "fresh": False,
        "allow_incomplete": False,
        "validate": True,
        **options,
    }
    experiment = load_experiment(str(cache.experiment), [*overrides, "evaluation.clips=3"])
    return runs.train_student(experiment, run, **arguments)


def test_run_is_measured_as_often_as_asked_and_the_best_network_is_kept(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Measurements(0.2, 0.7, 0.5, 0.55, 0.75)
    monkeypatch.setattr(validation, "measure", measure)
    summary = _train(tiny_cache, tmp_path / "run")
    events = read_events(tmp_path / "run", "validation")
    assert [(event["which"], event["epoch"], event["top1"]) for event in events] == [
        *(("current", 1, 0.2), ("current", 3, 0.7), ("current", 4, 0.5)),
        *(("last", 4, 0.55), ("best", 4, 0.75)),
    ]
    # One clip while it trains, the whole protocol at the end.
    assert measure.protocols == [1, 1, 1, 3, 3]
    assert summary["validation"]["best"]["of_epoch"] == 3
    assert summary["validation"]["last"]["top1"] == 0.55
    assert load_checkpoint(tmp_path / "run" / "best")[1].role == "student"
    cards = [(tmp_path / "run" / name).read_text() for name in ("README.md", "best/README.md")]
    fingerprint = CacheReader(tiny_cache.cache).manifest.fingerprint
    assert all(fingerprint in card for card in cards)
    for card, top1 in zip(cards, ("0.5500", "0.7500"), strict=True):
        assert f"| top-1 | {top1} |" in card

    again = _train(tiny_cache, tmp_path / "run")
    assert measure.values == []
    assert again["validation"] == summary["validation"]
    assert read_events(tmp_path / "run", "validation") == events


def test_last_network_that_is_the_best_is_measured_once(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Measurements(0.1, 0.2, 0.3, 0.35)
    monkeypatch.setattr(validation, "measure", measure)
    summary = _train(tiny_cache, tmp_path / "run")
    assert summary["validation"]["best"] == summary["validation"]["last"]


def test_measuring_that_is_interrupted_is_done_again(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> dict[str, Any]:
        raise PreemptedError("asked to stop")

    monkeypatch.setattr(validation, "measure", stop)
    with pytest.raises(PreemptedError):
        _train(tiny_cache, tmp_path / "run")
    monkeypatch.setattr(validation, "measure", Measurements(0.2, 0.7, 0.5, 0.55, 0.75))
    _train(tiny_cache, tmp_path / "run")
    events = read_events(tmp_path / "run", "validation")
    assert [event["epoch"] for event in events if event["which"] == "current"] == [1, 3, 4]


def test_measuring_changes_nothing_about_training(tiny_cache: TinyCache, tmp_path: Path) -> None:
    _train(tiny_cache, tmp_path / "measured")
    _train(tiny_cache, tmp_path / "not", validate=False)
    one, other = (read_events(tmp_path / name) for name in ("measured", "not"))
    assert [event["loss"] for event in one] == [event["loss"] for event in other]
    figures = read_events(tmp_path / "measured", "validation")[-1]
    assert 0 <= figures["top1"] <= 1
    assert not read_events(tmp_path / "not", "validation")


def test_index_without_the_split_is_told_and_the_run_goes_on(
    tiny_cache: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = load_experiment(str(tiny_cache.experiment)).data.index
    index = read_index(file)
    trained = tuple(video for video in index.videos if video.split == "train")
    write_index(file, replace(index, videos=trained))
    assert "validation" not in _train(tiny_cache, tmp_path / "run")
    assert "no split 'val' (data.val_split), so the run is not measured" in capsys.readouterr().err


def test_student_of_a_cache_is_trained_where_there_are_no_videos(
    tiny_cache: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = read_index(load_experiment(str(tiny_cache.experiment)).data.index)
    for video in index.videos:
        index.path_of(video).unlink()
    assert "validation" not in _train(tiny_cache, tmp_path / "run")
    assert "not measured: the videos of split 'val' are not here" in capsys.readouterr().err
