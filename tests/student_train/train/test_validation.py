"""A run measures itself while it trains, keeps the best network, and measures nothing twice."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.errors import DataError, PreemptedError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint, read_checkpoint_info
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.common.models.registry import build_model
from reskd.common.signals import stop_request
from reskd.student_train.evaluate import inference
from reskd.student_train.evaluate.inference import forward
from reskd.student_train.evaluate.measure import measure
from reskd.student_train.run.log import EVENTS_FILE, read_events, read_log
from reskd.student_train.train import runs, validation
from reskd.student_train.train.run_training import summary_text
from reskd.teacher_cache.read.reader import CacheReader
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


def _train(
    cache: TinyCache, run: Path, overrides: Sequence[str] = (), **options: Any
) -> dict[str, Any]:
    basic = [f"student.training.epochs={EPOCHS}", f"evaluation.interval={INTERVAL}"]
    arguments: dict[str, Any] = {
        "cache": cache.cache,
        "teacher": "cached",
        "distill": True,
        "processes": ALONE,
        "max_bad": 0.0,
        "fresh": False,
        "allow_incomplete": False,
        "validate": True,
        **options,
    }
    experiment = load_experiment(str(cache.experiment), [*basic, "evaluation.clips=3", *overrides])
    return runs.train_student(experiment, run, **arguments)


def test_run_is_measured_as_often_as_asked_and_the_best_network_is_kept(
    tiny_cache: TinyCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measure = Measurements(0.2, 0.7, 0.5, 0.55, 0.75)
    monkeypatch.setattr(validation, "measure", measure)
    summary = _train(tiny_cache, tmp_path / "run")
    told = [line for line in capsys.readouterr().err.splitlines() if "best so far" in line]
    few = "on 9 videos of val, best so far {} (epoch {}); these figures rest on 9 videos alone"
    assert [line.partition(":")[0] for line in told] == [
        f"epoch {epoch} ({epoch + 1} of 5 done)" for epoch in (1, 3, 4)
    ]
    for line, now, best in zip(
        told,
        ("0.2000", "0.7000", "0.5000"),
        (("0.2000", 1), ("0.7000", 3), ("0.7000", 3)),
        strict=True,
    ):
        assert f": top1 {now} {few.format(*best)}" in line
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


def _signal_in(nth: int, *numbers: signal.Signals) -> Callable[[Recognizer, Tensor], ClipOutput]:
    """Sends signals while the nth measurement has its first clips in hand."""
    begun = 0

    def interrupted(model: Recognizer, clips: Tensor) -> ClipOutput:
        nonlocal begun
        begun += 1
        if begun == nth:
            for number in numbers:
                os.kill(os.getpid(), number)
        return forward(model, clips)

    return interrupted


def _left(run: Path) -> dict[str, Any]:
    """What a run leaves, without when it was started and how long it took."""
    timed = {"seconds", "clips_per_second", "data_wait_share"}
    log = [
        {name: value for name, value in line.items() if name not in timed}
        for line in read_log(run)
        if line["event"] != "start"
    ]
    networks = [read_checkpoint_info(folder).weights_sha256 for folder in (run, run / "best")]
    record = json.loads((run / "best" / "measured.json").read_bytes())
    return {"log": log, "networks": networks, "best": record}


@pytest.fixture(scope="module")
def never_stopped(
    tiny_experiment_template: Path,
    tiny_cache_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What a run leaves that went through."""
    run = tmp_path_factory.mktemp("never-stopped") / "run"
    _train(TinyCache(tiny_experiment_template, tiny_cache_template), run)
    return _left(run)


@pytest.mark.parametrize(
    ("nth", "epochs", "numbers"),
    [
        (1, 2, [signal.SIGTERM]),
        (3, EPOCHS, [signal.SIGUSR1, signal.SIGTERM]),
        (4, EPOCHS, [signal.SIGTERM]),
    ],
    ids=["after-an-epoch", "after-the-last", "at-the-end"],
)
def test_signal_while_measuring_stops_at_once_and_the_run_ends_as_one_never_stopped(
    tiny_cache: TinyCache,
    tmp_path: Path,
    never_stopped: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    nth: int,
    epochs: int,
    numbers: list[signal.Signals],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(inference, "forward", _signal_in(nth, *numbers))
        with pytest.raises(PreemptedError, match=f"Stopped by {numbers[0].name}"):
            _train(tiny_cache, tmp_path / "run")
    assert len(read_events(tmp_path / "run")) == epochs
    assert len(read_events(tmp_path / "run", "validation")) == nth - 1
    _train(tiny_cache, tmp_path / "run")
    assert _left(tmp_path / "run") == never_stopped


def test_measuring_that_is_asked_to_stop_opens_no_more_videos(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(str(tiny_cache.experiment), ["evaluation.batch_size=1"])
    index = read_index(experiment.data.index)
    student = experiment.required_student()
    model = build_model(student.model, num_classes=3)
    with monkeypatch.context() as patch, stop_request() as stop:
        batches: list[Tensor] = []
        interrupted = _signal_in(2, signal.SIGTERM)

        def counted(model: Recognizer, clips: Tensor) -> ClipOutput:
            batches.append(clips)
            return interrupted(model, clips)

        patch.setattr(inference, "forward", counted)
        with pytest.raises(PreemptedError):
            measure(
                *(model, experiment, index),
                role="student",
                size=student.size,
                split="train",
                processes=ALONE,
                stop=stop,
            )
    assert len(batches) == 2


def test_log_that_was_lost_is_told_and_crowns_no_worse_network(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(validation, "measure", Measurements(0.2, 0.7, 0.5, 0.55, 0.75))
    _train(tiny_cache, run)
    best = (run / "best" / "model.safetensors").read_bytes()
    (run / EVENTS_FILE).unlink()
    monkeypatch.setattr(validation, "measure", Measurements(0.5, 0.55, 0.75))
    summary = _train(tiny_cache, run)
    assert (run / "best" / "model.safetensors").read_bytes() == best
    assert summary["validation"]["best"]["of_epoch"] == 3
    assert (summary["epochs"], summary["loss"]) == (EPOCHS, None)
    assert "its events.jsonl is missing or holds no epoch" in summary_text(summary)


def test_record_of_the_best_that_is_none_is_named(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "measure", Measurements(0.2, 0.7, 0.5, 0.55, 0.75))
    _train(tiny_cache, tmp_path / "run")
    record = tmp_path / "run" / "best" / "measured.json"
    assert json.loads(record.read_text())["epoch"] == 3
    for damage in ("", "[]"):
        record.write_text(damage)
        with pytest.raises(DataError, match=r"measured\.json is no record"):
            _train(tiny_cache, tmp_path / "run")
    record.unlink()
    assert _train(tiny_cache, tmp_path / "run")["validation"]["best"]["of_epoch"] == 3


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


@pytest.mark.parametrize("key", ["val_split", "train_split"])
def test_split_that_is_named_and_not_there_is_refused_before_training(
    tiny_cache: TinyCache, tmp_path: Path, key: str
) -> None:
    arguments = ["train-student", str(tiny_cache.experiment), "--no-distill"]
    arguments += ["--run", str(tmp_path / "run"), "-o", f"data.{key}=held"]
    assert main(arguments) == 3
    assert not (tmp_path / "run").exists()
    if key == "val_split":  # of no use there
        assert main([*arguments, "--no-validate", "-o", "student.training.epochs=1"]) == 0


def test_default_split_that_is_named_is_no_default(tiny_cache: TinyCache, tmp_path: Path) -> None:
    file = load_experiment(str(tiny_cache.experiment)).data.index
    index = read_index(file)
    write_index(file, replace(index, videos=index.split("train")))
    arguments = ["train-student", str(tiny_cache.experiment), "--no-distill"]
    arguments += ["--run", str(tmp_path / "run"), "-o", "data.val_split=val"]
    assert main(arguments) == 3


def test_run_given_more_epochs_is_measured_at_its_new_end(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Measurements(0.2, 0.7, 0.5, 0.55, 0.75, *(0.6, 0.8, 0.85))
    monkeypatch.setattr(validation, "measure", measure)
    _train(tiny_cache, tmp_path / "run")
    summary = _train(tiny_cache, tmp_path / "run", overrides=["student.training.epochs=7"])
    assert measure.values == []
    assert summary["validation"]["best"]["of_epoch"] == 6
    assert summary["validation"]["last"]["top1"] == 0.85


def test_student_of_a_cache_is_trained_where_there_are_no_videos(
    tiny_cache: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = read_index(load_experiment(str(tiny_cache.experiment)).data.index)
    for video in index.videos:
        index.path_of(video).unlink()
    assert "validation" not in _train(tiny_cache, tmp_path / "run")
    assert "not measured: the videos of split 'val' are not here" in capsys.readouterr().err
