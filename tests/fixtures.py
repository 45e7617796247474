"""Fixtures of the tests of both stages: made once per session, copied for every test."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_experiment import TinyCache, make_tiny_cache, make_tiny_experiment


@pytest.fixture(scope="session")
def tiny_experiment_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never write here; use tiny_experiment."""
    return make_tiny_experiment(tmp_path_factory.mktemp("tiny-template"))


@pytest.fixture(scope="session")
def tiny_cache_template(
    tiny_experiment_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Never write here; use tiny_cache."""
    return make_tiny_cache(
        tiny_experiment_template, tmp_path_factory.mktemp("tiny-cache-template") / "cache"
    ).cache


@pytest.fixture
def tiny_experiment(tiny_experiment_template: Path, tmp_path: Path) -> Path:
    """An experiment of this test alone: its YAML file, beside videos, index and teacher."""
    folder = shutil.copytree(tiny_experiment_template.parent, tmp_path / "tiny")
    return folder / tiny_experiment_template.name


@pytest.fixture
def tiny_cache(tiny_experiment: Path, tiny_cache_template: Path) -> TinyCache:
    """The same with a finished cache, also this test's alone."""
    cache = shutil.copytree(tiny_cache_template, tiny_experiment.parent / "cache")
    return TinyCache(tiny_experiment, cache)


@pytest.fixture
def ctrl_c_arrives() -> Iterator[None]:
    """SIGINT interrupts this process and those it starts, also in tests run in the background.

    A shell that starts a command with `&` in a script has it ignore SIGINT, and every process below
    inherits that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
