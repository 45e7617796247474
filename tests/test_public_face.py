"""`import reskd`: what a program of somebody else's meets."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reskd
from reskd.common.errors import DataError, ExperimentError
from tests.tiny_experiment import TinyCache

HEAVY = ("torch", "torchvision", "timm", "zarr", "av", "decord", "matplotlib", "click")


def printed_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_reskd_loads_nothing_heavy_and_shows_the_names() -> None:
    code = (
        f"import reskd, sys; print(dir(reskd), [name for name in {HEAVY} if name in sys.modules])"
    )
    assert printed_by(code).endswith("[]")
    assert set(reskd.__all__) <= set(dir(reskd))


def test_an_index_is_read_without_torch() -> None:
    assert (
        printed_by("import reskd, sys; reskd.read_index; print('torch' in sys.modules)") == "False"
    )


@pytest.mark.parametrize("name", reskd.__all__)
def test_public_name_exists_and_says_what_it_takes_gives_and_raises(name: str) -> None:
    value = getattr(reskd, name)
    text = inspect.getdoc(value) or ""
    assert "Args:" in text
    assert "Raises:" in text
    if inspect.isfunction(value):
        assert "Returns:" in text
        for parameter in inspect.signature(value).parameters:
            assert f"{parameter}:" in text, parameter


def test_unknown_name_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        AttributeError, match=r"no attribute 'load_predictr'; it has .*load_predictor"
    ):
        reskd.load_predictr  # noqa: B018 - looking it up is the test


def test_whole_way_from_python(tiny_experiment: Path, tmp_path: Path) -> None:
    experiment = reskd.load_experiment(tiny_experiment, ["student.training.epochs=1"])
    index = reskd.read_index(experiment.data.index)
    made = reskd.cache_teacher(experiment, tmp_path / "cache", device="cpu")
    assert made["videos"] == len(index.split("train"))
    with reskd.CacheReader(str(tmp_path / "cache")) as reader:
        videos = reader.usable_videos
        buffer = reader.empty("logits", len(videos))
        logits = reader.gather("logits", [0] * len(videos), videos, buffer)
        assert np.isfinite(logits).all()
    run = tmp_path / "student"
    trained = reskd.train_student(experiment, run, cache=tmp_path / "cache", device="cpu")
    assert trained["run"] == str(run)
    figures = reskd.evaluate([run], device="cpu", clips=2)
    assert figures["videos"] == len(index.split("val"))
    assert 0 <= figures["top1"] <= 1
    both = reskd.evaluate([run, experiment.teacher.checkpoint], device="cpu")
    assert [Path(result["run"]).name for result in both["runs"]] == ["student", "teacher"]
    _, info = reskd.load_checkpoint(run)
    predictor = reskd.load_predictor(run, device="cpu")
    (best, *_) = predictor.top(index.path_of(index.split("val")[0]), k=3)
    assert best.name in info.classes


def test_mistakes_raise_the_commands_errors(tiny_cache: TinyCache, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="No experiment 'nothing'"):
        reskd.load_experiment("nothing")
    with pytest.raises(DataError):
        reskd.read_index(tmp_path / "nothing.jsonl")
    experiment = reskd.load_experiment(tiny_cache.experiment)
    with pytest.raises(ExperimentError, match="need the teacher's"):
        reskd.train_student(experiment, tmp_path / "run", device="cpu")


def test_python_m_reskd_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reskd", "config", "show", "demo"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "name: demo" in done.stdout
    missing = subprocess.run(
        [sys.executable, "-m", "reskd", "config", "show", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 3
    assert json.dumps("nothing")[1:-1] in missing.stderr
