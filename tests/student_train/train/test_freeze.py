"""Frozen weights and statistics stay what they are, through steps and whole runs."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from reskd.common.errors import ExperimentError
from reskd.common.experiment import LossSpec, OptimizerSpec, TrainingSpec
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.student_train.run.state import STATE_FILE
from reskd.student_train.train import runs
from reskd.student_train.train.freeze import freeze
from reskd.student_train.train.stepper import Stepper
from tests.student_train.tiny_steps import changed, drawn_batch, tiny_task
from tests.tiny_experiment import ALONE, TinyCache

STEM = "backbone.model.conv1."
FROZEN = (STEM, "backbone.model.bn1.", "backbone.model.layer1.")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_weights_and_statistics_stay_and_all_others_move(
    name: Literal["sgd", "adamw"],
) -> None:
    task = tiny_task()
    freeze(task.model, FROZEN)
    spec = TrainingSpec(epochs=1, optimizer=OptimizerSpec(name=name, weight_decay=0.1))
    stepper = Stepper(task, replace(spec, ema_decay=0.5), ALONE, None)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    for seed in range(2):
        stepper.task.train()  # as at the beginning of every epoch
        stepper.forward_backward(drawn_batch(seed))
        stepper.step(0.1)
    moved = set(changed(before, task.model.state_dict()))
    assert moved == {name for name in before if not name.startswith(FROZEN)}
    averaged = set(changed(before, stepper.model.state_dict()))
    assert averaged == moved
    trained = sum(len(group["params"]) for group in stepper.optimizer.param_groups)
    assert trained == sum(not key.startswith(FROZEN) for key, _ in task.model.named_parameters())


@pytest.mark.parametrize(
    ("prefixes", "said"),
    [
        (
            [STEM, "backbone.model.layr1."],
            r"with 'backbone.model.layr1.'. Near it are .*layer1",
        ),
        (["encoder"], "Near it are backbone, classifier"),
        (["backbone", "classifier"], "leaves no parameter of the network to train"),
    ],
    ids=["misspelt", "nothing-near", "everything"],
)
def test_freezing_that_cannot_be_meant_is_refused(prefixes: list[str], said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        freeze(tiny_task().model, prefixes)


def test_run_with_a_frozen_backbone_trains_the_classifier_alone(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    def train(run: str, *overrides: str) -> dict[str, torch.Tensor]:
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
        return load_file(tmp_path / run / WEIGHTS_FILE)

    frozen = "student.training.freeze=[backbone]"
    one, more = (
        train(str(epochs), frozen, f"student.training.epochs={epochs}") for epochs in (1, 2)
    )
    assert set(changed(one, more)) == {"classifier.weight", "classifier.bias"}
    state = max((tmp_path / "1" / "states").iterdir()) / STATE_FILE
    groups = torch.load(state, weights_only=True)["parts"]["optimizer"]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == 2


def test_losses_that_depend_on_frozen_weights_alone_are_refused() -> None:
    task = tiny_task(losses=LossSpec(cross_entropy=0.0, feature_mse=1.0), teacher_grid=(1, 1))
    freeze(task.model, ["backbone"])
    stepper = Stepper(task, TrainingSpec(epochs=1), ALONE, None)
    features = {"features": torch.zeros(4, 2, task.model.num_features, 1, 1)}
    with pytest.raises(ExperimentError, match=r"freeze leaves nothing .*feature_mse"):
        stepper.forward_backward(replace(drawn_batch(0), targets=features))
