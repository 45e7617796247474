"""Loss terms of the user's: what they are given, what they may give, and that they are learned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reskd.common import own_code
from reskd.common.cli.main import main
from reskd.common.errors import ExperimentError
from reskd.common.experiment import LabelSpec, LossSpec
from reskd.common.experiment.load import load_experiment
from reskd.common.experiment.training import OwnLossSpec
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.common.own_code import trust_code
from reskd.student_train.train.task import Task
from tests.own_networks import write_module
from tests.tiny_experiment import TinyCache

LOSSES = """
import torch


class Scaled(torch.nn.Module):
    def __init__(self, power):
        super().__init__()
        self.power, self.scale = power, torch.nn.Parameter(torch.ones(()))

    def forward(self, output, targets, labels):
        return ((output.logits_BK * self.scale - targets["logits"]).abs() ** self.power).mean()


def size(**args):
    return lambda output, targets, labels: output.features_BTChw.square().mean() + 0 * labels.sum()


def seen(sink):
    def loss(output, targets, labels):
        sink.append((output, targets, labels))
        return output.logits_BK.mean()
    return loss


def per_clip():
    return lambda output, targets, labels: output.logits_BK.mean(1)


def count():
    return lambda output, targets, labels: labels.sum()


def failing():
    return lambda output, targets, labels: targets["features"]


def nothing():
    return None
"""


class Scores(Recognizer):
    """One number per class, whatever it sees."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        batch, frames = clips_BT3HW.shape[:2]
        return ClipOutput(torch.ones(batch, frames, 2, 1, 1), self.weight.expand(batch, 3))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_losses_{tmp_path.name}"
    monkeypatch.setattr(own_code, "_trusted", set())
    write_module(tmp_path, name, LOSSES, monkeypatch)
    trust_code(own_code.ANY_NAME)
    return name


def task_with(loss: str, *targets: Any, weight: float = 1.0, **args: Any) -> Task:
    own = OwnLossSpec(loss=loss, weight=weight, targets=targets, args=args)
    losses = LossSpec(cross_entropy=0.5, feature_mse=0.0, own={"mine": own})
    return Task(Scores(), losses, labels=LabelSpec())


CLIPS, LABELS = torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8), torch.tensor([2, 0])


def test_a_loss_is_weighed_and_its_parameters_are_trained(module: str) -> None:
    task = task_with(f"{module}:Scaled", "logits", weight=3.0, power=2)
    targets = {"logits": torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 3.0]], dtype=torch.float16)}
    output = task(CLIPS, LABELS, targets)
    assert output.parts["mine"].item() == pytest.approx(4 / 6)  # one of six is off by 2
    cross = output.parts["cross_entropy"].item()
    assert output.loss.item() == pytest.approx(0.5 * cross + 3 * 4 / 6)
    output.loss.backward()
    scale = dict(task.named_parameters())["own.mine.loss.scale"]
    # d/ds of mean((z s - t)^2) at s = 1 is 2 z (z - t) / 6, at z = 3 and t = 5, times the weight.
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(3 * 2 * 3 * (3 - 5) / 6)
    assert set(task.model.state_dict()) == {"weight"}, "it is no part of the network"


def test_a_loss_is_given_what_it_asks_for_in_float32(module: str) -> None:
    sink: list[tuple[ClipOutput, dict[str, Tensor], Tensor]] = []
    stored = {
        "logits": torch.ones(2, 3, dtype=torch.float16),
        "features": torch.full((2, 1, 2, 1, 1), 4, dtype=torch.int8),
        "feature_scale": torch.full((2, 2), 0.5, dtype=torch.float16),
        "feature_residual": torch.zeros(2),
    }
    task_with(f"{module}:seen", "features", sink=sink)(CLIPS, LABELS, stored)
    (output, targets, labels), *_ = sink
    assert targets.keys() == {"features", "feature_residual"}
    assert torch.equal(targets["features"], torch.full((2, 1, 2, 1, 1), 2.0))
    assert torch.equal(labels, LABELS)
    assert output.logits_BK.requires_grad


def test_groups_of_clips_count_as_the_task_weighs_them(module: str) -> None:
    task = task_with(f"{module}:Scaled", "logits", power=1)
    task.groups.sizes, task.groups.weights = (1, 1), (0.25, 0.75)
    targets = {"logits": torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 3.0]])}
    assert task(CLIPS, LABELS, targets).parts["mine"].item() == pytest.approx(0.25 * 2 / 3)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("per_clip", r"gives torch.float32 of shape \(2,\); the mean over the clips"),
        ("count", r"gives torch.int64 of shape \(\)"),
        ("failing", "own.mine .* fails: KeyError: 'features'"),
        ("nothing", "returns NoneType; what it returns is called with"),
        ("Scaled", "fails: TypeError: .*power"),
        ("absent", "There is no 'absent'"),
    ],
)
def test_a_loss_that_is_none_says_so(module: str, loss: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        task_with(f"{module}:{loss}")(CLIPS, LABELS, {})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("own={loss: {loss: 'a:b', weight: 1}}", "cannot be the name of a loss"),
        ("own={mine: {loss: 'a:b', weight: 0}}", "own.mine.weight"),
        ("own={mine: {loss: 'a:b', weight: 1, targets: [logit_map]}}", "targets.logit_map, which"),
        ("own={mine: {loss: 'a:b', weight: 1, target: logits}}", "own.mine.target: unknown key"),
    ],
)
def test_an_experiment_that_says_it_wrongly_is_refused(
    override: str, message: str, tiny_experiment: Path
) -> None:
    with pytest.raises(ExperimentError, match=message):
        load_experiment(tiny_experiment, [f"student.losses.{override}"])


def test_a_student_learns_from_it_and_from_nothing_else_of_the_teacher(
    module: str, tiny_cache: TinyCache, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    own = f"{{loss: '{module}:Scaled', weight: 2, targets: [logits], args: {{power: 2}}}}"
    train = ["train-student", str(tiny_cache.experiment), "--no-validate", "--run", str(run)]
    train += ["-o", f"student.losses.own.mine={own}", "-o", "student.losses.feature_mse=0"]
    train += ["-o", "student.training.epochs=2"]
    assert main(train) == 3, "without a cache there are no logits"
    assert main([*train, "--cache", str(tiny_cache.cache)]) == 0
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    epochs = [event for event in events if "mine" in event]
    assert len(epochs) == 2
    for event in epochs:
        assert event["mine"] > 0
        assert event["loss"] == pytest.approx(event["cross_entropy"] + 2 * event["mine"], rel=1e-5)
    own_code._trusted.clear()
    assert main(["predict", str(run), str(next(tiny_cache.experiment.parent.rglob("*.mp4")))]) == 0
