"""Losses on stored scores in whole runs, and what DKD is refused for."""

from dataclasses import replace
from pathlib import Path

import pytest

from reskd.common.dataset.index import read_index, write_index
from reskd.common.errors import ExperimentError
from reskd.common.experiment.load import load_experiment
from reskd.student_train.run.log import read_events
from reskd.student_train.train import runs
from tests.tiny_experiment import ALONE, TinyCache

WEIGHTS = {
    "feature_mse_normalised": 1.0,
    "logit_kd": 1.0,
    "dkd_target": 1.0,
    "dkd_others": 2.0,
    "dist_inter": 1.0,
    "dist_intra": 3.0,
}


def _train(experiment: Path, run: Path, cache: Path, *overrides: str) -> None:
    runs.train_student(
        load_experiment(str(experiment), overrides),
        run,
        cache=cache,
        teacher="cached",
        distill=True,
        processes=ALONE,
        max_bad=0.0,
        fresh=False,
        allow_incomplete=False,
        validate=False,
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_run_with_all_losses_on_stored_targets_logs_each(
    tiny_cache: TinyCache, tmp_path: Path, accumulation: int
) -> None:
    weights = {**WEIGHTS, "feature_mse": 0.0, "cross_entropy": 1.0}
    losses = [f"student.losses.{name}={weight}" for name, weight in weights.items()]
    parts = f"student.training.accumulation={accumulation}"
    once = ("student.losses.standardise_logits=true", "student.training.epochs=1", parts)
    _train(tiny_cache.experiment, tmp_path / "run", tiny_cache.cache, *losses, *once)
    [event] = read_events(tmp_path / "run")
    total = sum(weight * event[name] for name, weight in weights.items() if weight)
    assert event["loss"] == pytest.approx(total, rel=1e-5)
    assert all(event[name] > 0 for name in WEIGHTS)


def test_dkd_refuses_a_video_with_several_labels_by_its_name(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    experiment = load_experiment(str(tiny_cache.experiment))
    index = read_index(experiment.data.index)
    first, *others = index.split(experiment.data.train_split)
    several = replace(first, labels=(0, 1))
    rest = [entry for entry in index.videos if entry.split != experiment.data.train_split]
    changed = tmp_path / "index.jsonl"
    write_index(changed, replace(index, videos=(several, *others, *rest)))
    of_labels = (f"data.index={changed}", "student.losses.dkd_target=1")
    with pytest.raises(ExperimentError, match=f"dkd_target tells the one .* {first.id} of split"):
        _train(tiny_cache.experiment, tmp_path / "run", tiny_cache.cache, *of_labels)
