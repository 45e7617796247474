"""The campaigns of scale and leaks still run, small; nothing of time or memory is asserted."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.campaigns import leaks, scale
from tests.tiny_experiment import TinyCache


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 60 videos and the cache of it that holds nothing."""
    folder = tmp_path_factory.mktemp("scale")
    scale.make_index(folder, 60)
    scale.make_cache(folder)
    return folder


@pytest.mark.parametrize("step", scale.STEPS)
def test_every_step_of_scale_can_be_taken(step: str, made: Path) -> None:
    assert set(scale.take(step, made)) == {"seconds", "cpu_seconds", "peak_mb"}


def test_limits_of_scale_are_of_its_steps() -> None:
    assert scale.LIMITS.keys() < scale.STEPS.keys()


@pytest.mark.parametrize("name", ["a reader, never closed", "a reader that failed", "the index"])
def test_what_is_dropped_leaves_nothing_open(name: str, tiny_cache: TinyCache) -> None:
    found = leaks.watch(leaks.SUBJECTS[name], tiny_cache, tiny_cache.cache.parent, rounds=3)
    assert (found["files"], found["threads"]) == (0, 0)


@pytest.mark.parametrize("campaign", [scale, leaks], ids=["scale", "leaks"])
def test_campaign_has_a_command_with_json(campaign: object) -> None:
    shown = CliRunner().invoke(campaign.main, ["--help"])  # type: ignore[attr-defined]
    assert "--json" in shown.output
