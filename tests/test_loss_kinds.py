"""The table of losses: means over seeds, differences seed by seed, and recipes that are allowed."""

import pytest

from reskd.common.experiment.load import load_experiment
from tests.benchmarks.loss_kinds import KINDS, REFERENCE, summarise, summary_text


def test_differences_are_taken_seed_by_seed() -> None:
    seeds = {0: {REFERENCE: 0.5, "dist": 0.6}, 1: {REFERENCE: 0.9, "dist": 0.8}}
    summary = summarise(seeds)
    dist = summary["kinds"]["dist"]
    assert dist["mean"] == pytest.approx(0.7)
    assert dist["minus_feature_mse"]["mean"] == pytest.approx(0.0)
    assert dist["minus_feature_mse"]["std"] == pytest.approx(0.2 / 2**0.5)
    assert summary_text(summary).count("\n") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_every_kind_are_an_experiment(kind: str) -> None:
    experiment = load_experiment("demo", [f"student.losses={KINDS[kind]}"])
    losses = experiment.required_student().losses
    assert losses.cross_entropy == 1
    assert bool(losses.feature_mse) == (kind == REFERENCE)
