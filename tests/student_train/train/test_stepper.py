"""Options of a step: moving average, memory order, compilation, BatchNorm over processes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_

from reskd.common.errors import ExperimentError, PreemptedError
from reskd.common.experiment import OptimizerSpec, TrainingSpec
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.log import read_events
from reskd.student_train.train import runs
from reskd.student_train.train.stepper import Stepper, with_batchnorm_of_all
from tests.student_train.tiny_steps import changed, drawn_batch, state_of, tiny_task, unread_batch
from tests.tiny_experiment import ALONE, CPU, TinyCache

SPEC = TrainingSpec(epochs=1)


def _trained(stepper: Stepper) -> list[dict[str, torch.Tensor]]:
    """Weights of the task after each of three steps."""
    states = []
    for seed in range(3):
        assert stepper.forward_backward(drawn_batch(seed)) is not None
        stepper.step(0.1)
        states.append({name: value.clone() for name, value in stepper.task.state_dict().items()})
    return states


PLAIN: Final[dict[str, tuple[OptimizerSpec, Callable[[nn.Module], torch.optim.Optimizer]]]] = {
    "sgd": (
        OptimizerSpec(lr=1e-3, momentum=0.9, weight_decay=1e-3, clip_norm=1.0),
        lambda module: torch.optim.SGD(
            module.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3
        ),
    ),
    "adamw": (
        OptimizerSpec(name="adamw", lr=1e-4, weight_decay=0.02, clip_norm=1.0),
        lambda module: torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.02),
    ),
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_twenty_steps_are_those_of_the_plainest_loop(name: str) -> None:
    spec, make = PLAIN[name]
    stepper = Stepper(tiny_task(), replace(SPEC, optimizer=spec), ALONE, None)
    plain = tiny_task().model.train()
    optimizer = make(plain)
    for seed in range(20):
        batch = drawn_batch(seed)
        result = stepper.forward_backward(batch)
        assert result is not None
        norm = stepper.step(spec.lr)
        loss = cross_entropy(plain(plain.normalize(batch.frames_BT3HW)).logits_BK, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        expected = clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        found = torch.stack([result.output.loss, norm])
        torch.testing.assert_close(found, torch.stack([loss, expected]), rtol=1e-5, atol=0)


def test_average_follows_the_weights_by_its_decay_and_is_what_is_kept() -> None:
    stepper = Stepper(tiny_task(), replace(SPEC, ema_decay=0.75), ALONE, None)
    name = "classifier.weight"
    expected = stepper.task.model.state_dict()[name].clone()
    for state in _trained(stepper):
        expected = 0.75 * expected + 0.25 * state[f"model.{name}"]
    torch.testing.assert_close(stepper.model.state_dict()[name], expected)
    assert stepper.model is not stepper.task.model
    plain = Stepper(tiny_task(), SPEC, ALONE, None)
    assert plain.model is plain.task.model


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
            processes=ALONE,
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

    def stop_in_epoch_2(self: Stepper, lr: float) -> torch.Tensor:
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


def test_channels_last_turns_3d_weights_and_changes_roundings_only() -> None:
    plain = Stepper(tiny_task(recognizer="slowonly"), SPEC, ALONE, None)
    spec = replace(SPEC, channels_last=True)
    turned = Stepper(tiny_task(recognizer="slowonly"), spec, ALONE, None)
    expected, states = _trained(plain), _trained(turned)
    in_order = [
        [
            weight.is_contiguous(memory_format=torch.channels_last_3d)
            for weight in stepper.task.parameters()
            if weight.ndim == 5 and weight.shape[1] > 1 and weight[0, 0].numel() > 1
        ]
        for stepper in (plain, turned)
    ]
    assert in_order[0]
    assert not any(in_order[0])
    assert all(in_order[1])
    for name, value in expected[-1].items():
        torch.testing.assert_close(states[-1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("earlier", [0, 1], ids=["first", "later"])
def test_step_without_clips_changes_nothing(
    precision: Literal["float32", "float16"], earlier: int
) -> None:
    spec = replace(SPEC, precision=precision, ema_decay=0.5)
    stepper = Stepper(tiny_task(), spec, ALONE, None)
    for seed in range(earlier):
        stepper.forward_backward(drawn_batch(seed))
        stepper.step(0.1)
    before = state_of(stepper)
    assert stepper.forward_backward(unread_batch()) is None
    assert stepper.step(0.1) == 0.0
    assert changed(before, state_of(stepper)) == []
    stepper.forward_backward(drawn_batch(1))
    assert stepper.step(0.1) > 0.0


def test_compile_is_asked_of_torch_once_and_keeps_the_names_of_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def compiled(self: nn.Module, *_: Any, **__: Any) -> None:
        asked.append(self)

    monkeypatch.setattr(nn.Module, "compile", compiled)
    task = tiny_task()
    names = list(task.state_dict())
    stepper = Stepper(task, replace(SPEC, compile=True), ALONE, None)
    assert asked == [stepper.task]
    assert list(stepper.task.state_dict()) == names


def test_compiled_task_is_one_graph_and_trains_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the graph computed as it is; making code of it takes a compiler, and minutes."""
    options = {"backend": "eager", "fullgraph": True}
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, **options))
    plain = _trained(Stepper(tiny_task(), SPEC, ALONE, None))
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    compiled = _trained(Stepper(tiny_task(), replace(SPEC, compile=True), ALONE, None))
    assert graphs["unique_graphs"] == before + 1
    for name, value in plain[-1].items():
        torch.testing.assert_close(compiled[-1][name], value)


def test_batchnorm_over_processes_needs_gpus_where_there_are_several() -> None:
    spec = replace(SPEC, sync_batchnorm=True)
    Stepper(tiny_task(), spec, ALONE, None)
    with pytest.raises(ExperimentError, match="sync_batchnorm needs GPUs"):
        Stepper(tiny_task(), spec, ProcessGroup(CPU, world=2), None)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_byobnet"])
def test_batchnorm_over_processes_keeps_activations_and_weights(backbone: str) -> None:
    """Two of these have their activations inside of BatchNorm."""
    task = tiny_task(backbone).eval()
    clips = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        expected, names = task.model(clips).features_BTChw, list(task.state_dict())
        converted = with_batchnorm_of_all(task)
        assert torch.equal(converted.model(clips).features_BTChw, expected)
    assert list(converted.state_dict()) == names
    kinds = {type(module) for module in converted.modules() if isinstance(module, _BatchNorm)}
    assert kinds
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in kinds)
