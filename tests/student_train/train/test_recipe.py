"""What makes a run another run, and what does not."""

from pathlib import Path

from reskd.common.dataset.index import read_index
from reskd.common.experiment import LossSpec
from reskd.common.experiment.load import load_experiment
from reskd.student_train.train.recipe import Recipe, TargetSource, recipe_facts


def test_precision_of_the_cached_teacher_is_no_part_of_how_it_is_trained(
    tiny_experiment: Path,
) -> None:
    found = []
    for precision in ("float32", "float16"):
        experiment = load_experiment(str(tiny_experiment), [f"teacher.precision={precision}"])
        assert experiment.teacher.training is not None
        recipe = Recipe(
            role="teacher",
            experiment=experiment,
            model=experiment.teacher.model,
            size=experiment.views.size,
            training=experiment.teacher.training,
            losses=LossSpec(),
        )
        index = read_index(experiment.data.index)
        found.append(recipe_facts(recipe, index, [0], TargetSource()))
    assert found[0] == found[1]
    assert "precision" not in found[0]["teacher"]  # as it was when a run from before was stopped
