"""Runs in which a step goes wrong: what is on disk then, and what is kept of the step."""

import os
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reskd.common.errors import PreemptedError, StoppedShortError
from reskd.student_train.data.batches import Batch
from reskd.student_train.run.log import read_events
from reskd.student_train.run.state import STATE_FILE, WEIGHTS_FILE, RunPosition
from reskd.student_train.train import loop
from reskd.student_train.train.stepper import Stepper
from tests.student_train.counted_waits import counted_waits
from tests.student_train.tiny_trainer import Trainer
from tests.tiny_experiment import TinyCache

STEPS = 4
"""Per epoch, of nine clips in steps of two."""


@pytest.fixture
def trainer(tiny_cache: TinyCache) -> Trainer:
    trainer = Trainer(tiny_cache)
    trainer.spec = replace(trainer.spec, batch_size=2, epochs=2, keep=9, ema_decay=0.5)
    return trainer


def _spoil(batch: Batch) -> None:
    batch.targets["features"].fill_(float("nan"))


def _states(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "states").iterdir())


def _assert_same_state(one: Path, other: Path) -> None:
    """Weights and average, to the bit."""
    weights, expected = (load_file(state / WEIGHTS_FILE) for state in (one, other))
    for state, tensors in ((one, weights), (other, expected)):
        parts = torch.load(state / STATE_FILE, weights_only=True)["parts"]
        tensors |= {f"average.{name}": value for name, value in parts["average"].items()}
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []


def test_bad_step_directly_before_a_save_is_not_saved(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)  # after every step
    monkeypatch.setattr(loop, "LOG_STEPS", 1)
    trainer.start(tmp_path / "whole")
    with pytest.raises(StoppedShortError, match=r"loss is nan .* epoch 1, step 1"):
        trainer.start(tmp_path / "run", trainer.interrupted(1, _spoil))
    good = _states(tmp_path / "whole")[: STEPS + 1]
    assert _states(tmp_path / "run") == good
    for state in good:
        _assert_same_state(tmp_path / "run/states" / state, tmp_path / "whole/states" / state)
    assert [event["step"] for event in read_events(tmp_path / "run", "step")] == [*range(1, 6)]


def test_bad_step_that_a_signal_ends_is_not_saved(trainer: Trainer, tmp_path: Path) -> None:
    def spoil_and_send(batch: Batch) -> None:
        _spoil(batch)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedShortError, match=r"loss is nan .* epoch 1, step 1"):
        trainer.start(tmp_path / "run", trainer.interrupted(1, spoil_and_send))
    assert _states(tmp_path / "run") == [f"{STEPS:09d}"]


def test_weights_and_batch_that_a_bad_step_met_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    """Found out with the next step, whose batch lies beside it."""
    met: list[Tensor] = []
    kept: list[tuple[Tensor, list[int], int, dict[str, Tensor]]] = []

    def spoil(batch: Batch) -> None:
        _spoil(batch)
        met.append(batch.frames_BT3HW.clone())

    def keep(stepper: Stepper, batch: Batch, place: RunPosition, problem: str) -> Path:
        weights = {name: value.clone() for name, value in stepper.task.named_parameters()}
        kept.append((batch.frames_BT3HW.clone(), batch.videos, place.step, weights))
        return tmp_path

    with pytest.raises(StoppedShortError):
        trainer.start(tmp_path / "run", trainer.interrupted(1, spoil), on_failure=keep)
    [(frames, videos, step, weights)] = kept
    assert (len(videos), step) == (2, 1)
    assert torch.equal(frames, met[0])

    def stop(batch: Batch) -> None:
        raise PreemptedError("with the very weights that the second step meets")

    expected = trainer.task()
    with pytest.raises(PreemptedError):
        trainer.start(tmp_path / "other", trainer.interrupted(1, stop), task=expected)
    for name, value in expected.named_parameters():
        assert torch.equal(weights[name], value), name


def test_run_waits_for_the_device_with_log_lines_only(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_STEPS", STEPS - 1)
    batches = trainer.batches()
    by_step: list[int] = []
    epoch = type(batches).epoch

    def marked(self: object, *args: int, **kwargs: int) -> Generator[Batch, None, None]:
        for batch in epoch(batches, *args, **kwargs):
            before = waits.total()
            yield batch
            by_step.append(waits.total() - before)

    monkeypatch.setattr(type(batches), "epoch", marked)
    with counted_waits() as waits:
        trainer.start(tmp_path / "run", batches)
    logged = [bool(count) for count in by_step]
    assert logged == [False, False, True, False, False, True, False, False]
