"""Options of a step: moving average, memory order, compilation, BatchNorm over processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from common.checkpoints import WEIGHTS_FILE
from common.config import load_experiment
from common.errors import ExperimentError, PreemptedError
from common.models.registry import build_model
from common.specs import LabelSpec, LossSpec, ModelSpec, TrainingSpec
from student_train import runs
from student_train.batches import Batch
from student_train.ranks import Ranks
from student_train.run_log import read_events
from student_train.stepper import Stepper
from student_train.task import Task
from tests.tiny_experiment import ALONE, CPU, TinyCache

SPEC = TrainingSpec(epochs=1)
MODEL = ModelSpec(backbone="test_resnet", dropout=0.0)


def _task() -> Task:
    torch.manual_seed(0)
    model = build_model(MODEL, num_classes=3)
    return Task(model, LossSpec(feature_mse=0.0), labels=LabelSpec())


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (4, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Batch(frames, torch.randint(3, (4,), generator=generator), [0, 1, 2, 3])


def _trained(stepper: Stepper) -> list[dict[str, torch.Tensor]]:
    """Weights of the task after each of three steps."""
    states = []
    for seed in range(3):
        assert stepper.forward_backward(_batch(seed)) is not None
        stepper.step(0.1)
        states.append({name: value.clone() for name, value in stepper.task.state_dict().items()})
    return states


def test_average_follows_the_weights_by_its_decay_and_is_what_is_kept() -> None:
    stepper = Stepper(_task(), replace(SPEC, ema_decay=0.75), ALONE, None)
    name = "classifier.weight"
    expected = stepper.task.model.state_dict()[name].clone()
    for state in _trained(stepper):
        expected = 0.75 * expected + 0.25 * state[f"model.{name}"]
    torch.testing.assert_close(stepper.model.state_dict()[name], expected)
    assert Stepper(_task(), SPEC, ALONE, None).model is not stepper.task.model


def test_run_with_an_average_saves_it_and_goes_on_with_it(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: str) -> None:
        overrides = ["student.training.ema_decay=0.9", "student.training.epochs=3"]
        runs.train_student(
            load_experiment(str(tiny_cache.experiment), overrides),
            tmp_path / run,
            cache=tiny_cache.cache,
            teacher="cached",
            distill=True,
            ranks=ALONE,
            max_bad=0.0,
            fresh=False,
            allow_incomplete=False,
            validate=False,
        )

    train("whole")
    state = load_file(max((tmp_path / "whole" / "states").iterdir()) / "weights.safetensors")
    saved = load_file(tmp_path / "whole" / WEIGHTS_FILE)
    assert not torch.equal(saved["classifier.weight"], state["model.classifier.weight"])

    steps = []
    step = Stepper.step

    def stop_in_epoch_2(self: Stepper, lr: float) -> float:
        steps.append(lr)
        if len(steps) == 6:
            raise PreemptedError("asked to stop")
        return step(self, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", stop_in_epoch_2)
        with pytest.raises(PreemptedError):
            train("stopped")
    train("stopped")
    again = load_file(tmp_path / "stopped" / WEIGHTS_FILE)
    assert [name for name in saved if not torch.equal(saved[name], again[name])] == []
    assert len(read_events(tmp_path / "stopped")) == 3


def test_channels_last_turns_2d_weights_and_changes_roundings_only() -> None:
    plain = _trained(Stepper(_task(), SPEC, ALONE, None))
    stepper = Stepper(_task(), replace(SPEC, channels_last=True), ALONE, None)
    turned = _trained(stepper)
    weight = next(p for p in stepper.task.parameters() if p.ndim == 4 and min(p.shape) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in plain[-1].items():
        torch.testing.assert_close(turned[-1][name], value, rtol=1e-3, atol=1e-4)


def test_compile_is_asked_of_torch_once_and_keeps_the_names_of_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def compiled(self: nn.Module, *_: Any, **__: Any) -> None:
        asked.append(self)

    monkeypatch.setattr(nn.Module, "compile", compiled)
    task = _task()
    names = list(task.state_dict())
    stepper = Stepper(task, replace(SPEC, compile=True), ALONE, None)
    assert asked == [stepper.task]
    assert list(stepper.task.state_dict()) == names


def test_batchnorm_over_processes_needs_gpus_where_there_are_several() -> None:
    spec = replace(SPEC, sync_batchnorm=True)
    Stepper(_task(), spec, ALONE, None)
    with pytest.raises(ExperimentError, match="sync_batchnorm needs GPUs"):
        Stepper(_task(), spec, Ranks(CPU, world=2), None)
