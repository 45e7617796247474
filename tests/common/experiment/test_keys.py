"""What is said of an experiment's keys is what the code does."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.resources import files
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.errors import ExperimentError
from reskd.common.experiment import TrainingSpec
from reskd.common.experiment.keys import experiment_keys, keys_markdown
from reskd.common.experiment.load import experiment_tree, load_experiment


def test_page_is_what_the_code_says() -> None:
    page = files("reskd.configs").joinpath("KEYS.md").read_text(encoding="utf-8")
    assert page == keys_markdown(), "make it anew: reskd config keys --markdown > configs/KEYS.md"


def test_every_key_has_a_meaning_and_sections_have_theirs_below() -> None:
    keys = {key.path: key for key in experiment_keys()}
    assert all(key.meaning.endswith(".") for key in keys.values())
    training = {path.removeprefix("student.training.") for path in keys if "t.training." in path}
    assert {field.name for field in fields(TrainingSpec)} <= training


@pytest.mark.parametrize(
    ("path", "kind", "default"),
    [
        ("student.size", "whole number, at least 1 and at most 8192", "112"),
        ("views.flip_probability", "number, at least 0 and at most 1", "0.5"),
        ("teacher.precision", "one of float32, tf32, float16, bfloat16", "float32"),
        ("teacher.checkpoint", "path", "required"),
        ("student.training.compile", "true or false", "false"),
        ("student.training.ema_decay", "number, at least 0 and below 1 or null", "null"),
        ("student.training.freeze", "list of text", "[]"),
        ("teacher.model.mean", "3 of number, at least 0 and at most 1 or null", "null"),
    ],
)
def test_types_and_defaults_in_words(path: str, kind: str, default: str) -> None:
    [key] = experiment_keys(path)
    assert (key.type, key.default) == (kind, default)


def test_every_key_of_a_resolved_experiment_is_known() -> None:
    known = {key.path for key in experiment_keys()}
    assert set(_paths(experiment_tree(load_experiment("k400/swin_b_to_swin_s")))) <= known


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict) and name != "backbone_args":
            yield from _paths(value, f"{prefix}{name}.")


def test_command_prints_a_key_and_those_below(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "keys", "student.training.optimizer"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("student.training.optimizer: section")
    assert "student.training.optimizer.lr: number, above 0; default 0.01" in lines
    assert all(line.startswith(("student.training.optimizer", "    ")) for line in lines)


def test_unknown_key_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExperimentError, match="name, data, clip, views"):
        experiment_keys("nosuch")
    assert main(["config", "keys", "student.nothing"]) == 3
    assert "'student.nothing'" in capsys.readouterr().err
