"""The teacher's precision is part of whose outputs a cache holds; caches from before have one."""

from pathlib import Path
from typing import Any

import pytest

from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.format.identity import Identity, cache_identity, first_difference


def identity_of(experiment: Path, *overrides: str) -> Identity:
    chosen = load_experiment(str(experiment), overrides)
    return cache_identity(chosen, split="train", teacher=None)


@pytest.mark.parametrize("stated", [{"precision": "float32"}, {}], ids=["stated", "left out"])
def test_cache_from_before_is_one_of_float32(tiny_experiment: Path, stated: dict[str, Any]) -> None:
    before = identity_of(tiny_experiment)
    del before["teacher"]["precision"]
    before["teacher"] |= stated
    assert first_difference(before, identity_of(tiny_experiment)) is None
    other = identity_of(tiny_experiment, "teacher.precision=float16")
    expected = "teacher.precision: the cache has float32, the experiment asks for float16"
    assert first_difference(before, other) == expected
