"""Imported networks are measured like trained ones, by the experiment that is given for them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.experiment import ModelSpec, Role
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from tests.student_train.random_checkpoint import random_checkpoint
from tests.tiny_experiment import make_tiny_experiment

CLASSES = ("climb", "dive", "jump")
OWN = ModelSpec(backbone="test_resnet")
"""With timm's mean and std, which an import assumes."""
SIZES = {"teacher": 48, "student": 24}

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `teacher` and `student`, and for each the same weights as published: `.safetensors`."""
    folder = tmp_path_factory.mktemp("imported")
    experiment_file = make_tiny_experiment(folder)
    roles: tuple[Role, ...] = ("teacher", "student")
    for seed, role in enumerate(roles):
        torch.manual_seed(seed)
        random_checkpoint(
            folder / role, experiment_file, spec=OWN, role=role, size=SIZES[role], decided=True
        )
        published = {
            name.removeprefix("backbone.model.").replace("classifier.", "fc."): tensor
            for name, tensor in load_file(folder / role / WEIGHTS_FILE).items()
        }
        save_file(published, folder / f"{role}.safetensors")
    return folder


def _import(home: Path, out: Path, *options: str, part: str = "student") -> Path:
    """An imported directory without an experiment."""
    given = ["--model", "tsn_test_resnet", "--part", part, *options]
    if "--size" not in options:
        given += ["--size", str(SIZES[part])]
    assert main(["import-checkpoint", str(home / f"{part}.safetensors"), str(out), *given]) == 0
    return out


def _evaluate(capsys: Capture, *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--json", "--device", "cpu"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def _refused(capsys: Capture, code: int, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--device", "cpu"]) == code
    return capsys.readouterr().err


def _given(home: Path) -> tuple[str, Path]:
    return "--experiment", home / "experiment.yaml"


@pytest.mark.parametrize("part", ["teacher", "student"])
def test_imported_weights_have_the_very_figures_of_the_run_they_come_from(
    home: Path, tmp_path: Path, capsys: Capture, part: str
) -> None:
    options = ["--split", "train", "--clips", 2, "--crops", 3]
    expected = _evaluate(capsys, home / part, *options)
    found = _evaluate(capsys, _import(home, tmp_path / "bare", part=part), *_given(home), *options)
    for key in expected.keys() - {"run", "clips_per_second"}:
        assert found[key] == expected[key], key
    assert {key: found[key] for key in found.keys() - expected.keys()} == {
        "given_experiment": "tiny",
        "class_names_from": str(home / "index.jsonl"),
    }


def test_runs_with_an_experiment_keep_it_beside_imported_ones(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    teacher = _import(home, tmp_path / "bare", part="teacher")
    result = _evaluate(
        capsys, home / "student", "--teacher", teacher, *_given(home), "-o", "clip.num_clips=2"
    )
    assert [run["run"] for run in result["runs"]] == [str(teacher), str(home / "student")]
    assert [run["protocol"].split(",")[0] for run in result["runs"]] == ["2 frames", "3 frames"]
    assert ["given_experiment" in run for run in result["runs"]] == [True, False]
    assert result["runs"][1]["teacher"] == str(teacher)


def test_text_says_what_was_taken_from_where(home: Path, tmp_path: Path, capsys: Capture) -> None:
    bare = _import(home, tmp_path / "bare")
    for runs, prefix in (([bare], "\n"), ([home / "student", bare], "\nbare: ")):
        capsys.readouterr()
        given = [str(part) for part in (*runs, *_given(home))]
        assert main(["evaluate", *given, "--device", "cpu"]) == 0
        text = capsys.readouterr().out
        for told in ("an experiment: videos and test views are those of 'tiny'", "class names: "):
            assert text.count(f"{prefix}imported without {told}") == 1


def test_class_names_of_an_imported_network_are_compared_where_it_has_some(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    for order in (CLASSES, CLASSES[::-1]):
        (tmp_path / "names.txt").write_text("\n".join(order))
        bare = _import(home, tmp_path / order[0], "--classes", str(tmp_path / "names.txt"))
        if order == CLASSES:
            assert "class_names_from" not in _evaluate(capsys, bare, *_given(home))
        else:
            told = _refused(capsys, 3, bare, *_given(home))
            assert "(jump, dive, climb, …) are not the 3 of the index" in told


def test_numbered_classes_of_another_number_are_refused(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    index = read_index(home / "index.jsonl")
    more = replace(index, classes=(*CLASSES, "run"), root=home / "videos")
    write_index(tmp_path / "more.jsonl", more)
    bare = _import(home, tmp_path / "bare")
    told = _refused(capsys, 3, bare, *_given(home), "--index", tmp_path / "more.jsonl")
    assert "The 3 classes of" in told
    assert "are not the 4 of the index" in told
    assert "an index of 3 classes" in told


def test_missing_experiment_is_named_with_the_option_that_gives_it(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    bare = _import(home, tmp_path / "bare")
    for runs in ([bare], [home / "student", bare], [home / "student", "--teacher", bare]):
        told = _refused(capsys, 3, *runs)
        assert f"{bare} was imported without an experiment" in told
        assert "--experiment EXPERIMENT" in told


@pytest.mark.parametrize("teacher", [[], ["--teacher", "teacher"]])
def test_experiment_that_no_run_needs_is_refused(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, teacher: list[str]
) -> None:
    monkeypatch.chdir(home)
    told = _refused(capsys, 2, "student", *teacher, *_given(home))
    assert "every RUN here has its own" in told
    assert "--clips to --batch" in told


def test_override_without_experiment_is_refused(home: Path, capsys: Capture) -> None:
    told = _refused(capsys, 2, home / "student", "-o", "clip.num_clips=2")
    assert "named with --experiment" in told


def test_network_for_larger_frames_than_the_experiment_cuts_is_refused(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    large = _import(home, tmp_path / "large", "--size", "64")
    told = _refused(capsys, 3, large, *_given(home))
    assert "takes frames of 64 px, the experiment 'tiny' cuts frames of 48 px" in told
    overrides = ["-o", "views.size=64", "-o", "views.short_side=72"]
    assert _evaluate(capsys, large, *_given(home), *overrides)["size"] == 64


def test_imported_student_is_measured_by_an_experiment_that_has_none(
    home: Path, tmp_path: Path, capsys: Capture
) -> None:
    bare = _import(home, tmp_path / "bare")
    overrides = ["-o", "student=null", "-o", "teacher.training.labels.kind=any_of"]
    found = _evaluate(capsys, bare, *_given(home), *overrides)
    assert (found["role"], found["size"]) == ("student", 24)
    assert "probabilities (sigmoid) averaged" in found["protocol"]


def test_report_repeats_the_whole_command(
    home: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = _import(home, tmp_path / "bare")
    monkeypatch.chdir(home)
    overrides = ["-o", "clip.num_clips=2", "-o", "views.count=1"]
    report = tmp_path / "report"
    _evaluate(capsys, bare, "--experiment", "experiment.yaml", *overrides, "--report", report)
    page = (report / "index.html").read_text()
    experiment = f"--experiment {home / 'experiment.yaml'}"
    assert f"reskd evaluate {bare} {experiment} {' '.join(overrides)} --report" in page
