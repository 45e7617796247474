"""Whole runs of two processes: what they measure, and that they refuse and stop together."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from reskd.common.dataset.open import open_entry
from reskd.common.errors import DataError, PreemptedError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate import inference
from reskd.student_train.evaluate.inference import forward
from reskd.student_train.evaluate.measure import evaluate_runs
from reskd.student_train.run.folder import STATES_FOLDER, RunFolder
from reskd.student_train.run.log import read_events
from reskd.student_train.train import run_training, runs
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.validation import LOGGED
from tests.student_train.two_processes import WORLD, in_one_group
from tests.tiny_experiment import ALONE, TinyCache

OPTIONS = (
    "student.training.epochs=2",
    "evaluation.interval=1",
    "data.val_split=train",  # more videos, finer figures
    "evaluation.batch_size=2",
)


def _train(cache: TinyCache, run: str, processes: ProcessGroup, *options: str) -> dict[str, Any]:
    return runs.train_student(
        load_experiment(str(cache.experiment), [*OPTIONS, *options]),
        cache.experiment.parent / run,
        cache=cache.cache,
        teacher="cached",
        distill=True,
        processes=processes,
        max_bad=0.0,
        fresh=False,
        allow_incomplete=False,
        validate=True,
    )


def _average_is_kept(cache: TinyCache, processes: ProcessGroup) -> list[str]:
    """And measured, to the names of the figures."""
    summary = _train(cache, "average", processes, "student.training.ema_decay=0.5")
    return sorted(summary["validation"])


def _second_has_no_videos(cache: TinyCache, processes: ProcessGroup) -> list[str]:
    """What is said by this process of a run that the second one cannot measure."""

    def refuse(*_: Any) -> None:
        raise DataError("No such file.")

    opened = open_entry if processes.is_first else refuse
    said: list[str] = []
    with (
        patch.object(run_training, "open_entry", opened),
        patch.object(run_training, "say", said.append),
    ):
        assert "validation" not in _train(cache, "unmeasured", processes)
    return said


def _second_is_asked_to_stop(cache: TinyCache, processes: ProcessGroup) -> list[str]:
    """While it measures the network after the first epoch; then the run is called again."""

    def interrupted(model: Recognizer, clips: torch.Tensor) -> ClipOutput:
        if not processes.is_first:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(model, clips)

    with (
        patch.object(inference, "forward", interrupted),
        pytest.raises(PreemptedError) as stopped,
    ):
        _train(cache, "stopped", processes)
    processes.wait()
    events = read_events(cache.experiment.parent / "stopped", "validation")
    processes.wait()
    _train(cache, "stopped", processes)
    return [str(stopped.value).split(". ")[0], *(event["which"] for event in events)]


def _stopped_while_the_first_saves(cache: TinyCache, processes: ProcessGroup) -> bool:
    """Whether the state is there when this process is told to stop."""
    step, save = Stepper.step, RunFolder.save
    stopped_in = cache.experiment.parent / "stopped-in-a-step"

    def asked_to_stop(self: Stepper, lr: float) -> torch.Tensor:
        if not processes.is_first:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, lr)

    def slow(self: RunFolder, *state: Any) -> None:
        time.sleep(0.3)
        save(self, *state)

    with (
        patch.object(Stepper, "step", asked_to_stop),
        patch.object(RunFolder, "save", slow),
        pytest.raises(PreemptedError),
    ):
        _train(cache, stopped_in.name, processes, "student.training.batch_size=2")
    return (stopped_in / STATES_FOLDER / "000000002").exists()


def _folder_is_held(cache: TinyCache, processes: ProcessGroup) -> str:
    """By another run, while these two want to train there."""
    folder = RunFolder(cache.experiment.parent / "held", {})
    processes.wait()
    if processes.is_first:
        with folder.held(ALONE), pytest.raises(StoppedShortError) as refused:
            _train(cache, "held", processes)
    else:
        with pytest.raises(StoppedShortError) as refused:
            _train(cache, "held", processes)
    return str(refused.value)


SITUATIONS: tuple[Callable[[TinyCache, ProcessGroup], Any], ...] = (
    *(_average_is_kept, _second_has_no_videos, _second_is_asked_to_stop),
    *(_stopped_while_the_first_saves, _folder_is_held),
)


def _all_situations(cache: TinyCache, processes: ProcessGroup) -> dict[str, Any]:
    return {one.__name__: one(cache, processes) for one in SITUATIONS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_experiment_template: Path) -> Path:
    """Of the experiment; the runs are in it once `found` is there."""
    folder = tmp_path_factory.mktemp("processes") / "experiment"
    return shutil.copytree(tiny_experiment_template.parent, folder)


@pytest.fixture(scope="module")
def found(
    folder: Path, tiny_experiment_template: Path, tiny_cache_template: Path
) -> list[dict[str, Any]]:
    """What each process has found, all in the same two, since starting these is slow."""
    cache = TinyCache(folder / tiny_experiment_template.name, tiny_cache_template)
    return in_one_group(partial(_all_situations, cache))


@pytest.mark.parametrize("run", ["average", "stopped"])
def test_figures_of_a_run_are_those_of_the_network_that_it_leaves(
    folder: Path, found: list[dict[str, Any]], run: str
) -> None:
    """Each process has BatchNorm statistics of its own; the first one's are saved."""
    assert [own["_average_is_kept"] for own in found] == [["best", "last"]] * WORLD
    [measured] = evaluate_runs([folder / run], index_path=None, split=None, processes=ALONE)
    [last] = [
        event for event in read_events(folder / run, "validation") if event["which"] == "last"
    ]
    assert {name: last[name] for name in LOGGED} == {
        name: measured.figures[name] for name in LOGGED
    }


def test_run_that_one_process_cannot_measure_is_measured_by_none_and_told_once(
    found: list[dict[str, Any]],
) -> None:
    first, second = (own["_second_has_no_videos"] for own in found)
    assert first == [
        "The run is not measured: the videos of split 'train' are not here. No such file."
    ]
    assert second == []


def test_process_that_is_asked_to_stop_while_measuring_stops_all_and_the_run_goes_on(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    first, second = (own["_second_is_asked_to_stop"] for own in found)
    assert first == ["Stopped by another process of this run"]
    assert second == ["Stopped by SIGTERM"]
    events = read_events(folder / "stopped", "validation")
    assert [event["which"] for event in events] == ["current", "current", "last", "best"]


def test_processes_that_do_not_save_stop_when_the_first_one_has_saved(
    found: list[dict[str, Any]],
) -> None:
    assert [own["_stopped_while_the_first_saves"] for own in found] == [True] * WORLD


def test_run_in_a_folder_that_another_one_holds_is_refused_in_all_processes(
    found: list[dict[str, Any]],
) -> None:
    first, second = (own["_folder_is_held"] for own in found)
    assert "is training in" in first
    assert first == second
