"""What makes a run another run, and what does not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reskd.common.dataset.index import read_index
from reskd.common.experiment import LossSpec
from reskd.common.experiment.load import load_experiment
from reskd.student_train.train.recipe import Recipe, TargetSource, recipe_facts


def _facts(experiment_file: Path, *overrides: str) -> dict[str, Any]:
    experiment = load_experiment(str(experiment_file), overrides)
    assert experiment.teacher.training is not None
    recipe = Recipe(
        role="teacher",
        experiment=experiment,
        model=experiment.teacher.model,
        size=experiment.views.size,
        training=experiment.teacher.training,
        losses=LossSpec(),
    )
    return recipe_facts(recipe, read_index(experiment.data.index), [0], TargetSource())


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("teacher.training.freeze=[backbone]", "teacher.training.freeze=[]"),
        ("teacher.training.optimizer.head_lr_factor=10", "teacher.training.epochs=4"),
    ],
)
def test_options_younger_than_runs_count_only_where_they_are_used(
    tiny_experiment: Path, option: str, default: str
) -> None:
    path, _ = option.split("=")
    *parents, name = path.split(".")

    def at_path(facts: dict[str, Any]) -> dict[str, Any]:
        for parent in parents:
            facts = facts[parent]
        return facts

    assert name in at_path(_facts(tiny_experiment, option))
    assert name not in at_path(_facts(tiny_experiment, default))


def test_precision_of_the_cached_teacher_is_no_part_of_how_it_is_trained(
    tiny_experiment: Path,
) -> None:
    found = [
        _facts(tiny_experiment, f"teacher.precision={precision}")
        for precision in ("float32", "float16")
    ]
    assert found[0] == found[1]
    assert "precision" not in found[0]["teacher"]  # as it was when a run from before was stopped


def test_order_is_part_of_a_recipe_where_it_is_not_the_usual_one(tiny_experiment: Path) -> None:
    usual = _facts(tiny_experiment)
    assert "order" not in usual["teacher"]["training"]  # nor was it before there was a choice
    assert _facts(tiny_experiment, "teacher.training.order=shuffled") == usual
    blocks = _facts(tiny_experiment, "teacher.training.order=blocks")
    assert blocks["teacher"]["training"]["order"] == "blocks"


def test_losses_younger_than_runs_count_only_where_they_have_a_weight(
    tiny_experiment: Path,
) -> None:
    before = {
        *("cross_entropy", "feature_mse", "logit_kd", "temperature"),
        *("logit_map_kl", "logit_map_temperature"),
    }
    experiment = load_experiment(str(tiny_experiment))

    def losses(**changes: Any) -> list[dict[str, Any]]:
        student = replace(experiment.required_student(), losses=LossSpec(**changes))
        recipe = Recipe(
            role="student",
            experiment=replace(experiment, student=student),
            model=student.model,
            size=student.size,
            training=student.training,
            losses=student.losses,
        )
        facts = recipe_facts(recipe, read_index(experiment.data.index), [0], TargetSource())
        return [facts["losses"], facts["student"]["losses"]]

    assert [set(found) for found in losses()] == [before, before]
    used = {"dist_intra": 1.0, "logit_kd": 1.0, "standardise_logits": True}
    assert [set(found) - before for found in losses(**used)] == [
        {"dist_intra", "standardise_logits"}
    ] * 2
