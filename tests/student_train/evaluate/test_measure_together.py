"""Several runs measured together, networks in memory, and videos shared out over processes."""

import csv
import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.experiment import EvaluationSpec, Role
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import load_checkpoint
from reskd.student_train.evaluate.few_videos import few_videos_text
from reskd.student_train.evaluate.measure import measure
from tests.student_train.random_checkpoint import random_checkpoint
from tests.student_train.two_processes import as_torchrun_does, free_port, in_two_processes
from tests.tiny_experiment import ALONE, cut_off, make_tiny_experiment

AWKWARD = ('a "b", c', "<script>", "=1+1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `teacher`, `one` and `two` of an experiment whose classes have awkward names."""
    folder = tmp_path_factory.mktemp("runs")
    experiment_file = make_tiny_experiment(folder)
    index = read_index(folder / "index.jsonl")
    write_index(folder / "index.jsonl", replace(index, classes=AWKWARD))
    for seed, run in enumerate(("teacher", "one", "two")):
        role: Role = "teacher" if run == "teacher" else "student"
        torch.manual_seed(seed)
        random_checkpoint(
            folder / run,
            experiment_file,
            role=role,
            size={"teacher": 48, "student": 24}[role],
            classes=AWKWARD,
            decided=True,
        )
    return folder


def _reskd(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["evaluate", *map(str, arguments), "--json", "--device", "cpu"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_several_runs_are_measured_on_the_same_videos_and_compared(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [home / "teacher", home / "one", home / "two"]
    together = _reskd(capsys, *runs, "--split", "train")
    assert [run["run"] for run in together["runs"]] == [str(run) for run in runs]
    assert [run["size"] for run in together["runs"]] == [48, 24, 24]
    alone = _reskd(capsys, runs[1], "--split", "train")
    kept = ("top1", "mean_average_precision", "intervals", "calibration_error", "protocol")
    assert {key: alone[key] for key in kept[:2]} == {
        key: together["runs"][1][key] for key in kept[:2]
    }
    assert "agreement" not in alone
    assert "agreement" not in together["runs"][0]
    assert 0 <= together["runs"][1]["agreement"] <= 1
    assert together["runs"][1]["teacher"] == str(runs[0])
    top1 = {run["run"]: run["top1"] for run in together["runs"]}
    assert len(together["comparisons"]) == 3
    for pair in together["comparisons"]:
        difference = top1[pair["second"]] - top1[pair["first"]]
        assert pair["top1_difference"] == pytest.approx(difference, abs=1e-6)
        assert pair["interval"]["low"] <= difference + 1e-6
        assert difference - 1e-6 <= pair["interval"]["high"]


def test_named_teacher_is_measured_before_the_run_and_once(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = _reskd(capsys, home / "one", "--teacher", home / "teacher")
    assert [run["role"] for run in named["runs"]] == ["teacher", "student"]
    twice = _reskd(capsys, home / "teacher", "--teacher", home / "teacher")
    assert twice["role"] == "teacher"  # one run: its own keys


def test_text_of_several_runs_names_every_cost_and_difference(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(home / "teacher"), str(home / "one")]
    assert main(["evaluate", *runs, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "split val: 3 videos; unreadable ones count as wrong" in text
    [difference] = [line for line in text.splitlines() if "top-1 of one minus teacher: " in line]
    assert difference.endswith("]")  # of three videos nothing is claimed
    assert "these figures rest on 3 videos alone: too few to tell networks apart" in text
    for run in ("teacher", "one"):
        assert f"\n{run}: 3 frames, 1 clip x centre crop" in text
    assert text.count("GMACs") == 1


@pytest.mark.parametrize(
    ("videos", "said"), [(0, True), (1, True), (49, True), (50, False), (5000, False)]
)
def test_figures_of_few_videos_say_so(videos: int, said: bool) -> None:
    assert bool(few_videos_text(videos)) == said
    assert not said or f"rest on {videos} videos" in few_videos_text(videos)


def test_table_of_classes_keeps_every_name(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "classes.csv"
    runs = [home / "one", home / "two"]
    result = _reskd(capsys, *runs, "--split", "train", "--per-class", out)
    assert result["per_class"] == str(out)
    text = out.read_bytes().decode()
    assert text.count("\r\n") == text.count("\n") == 7
    assert '"a ""b"", c"' in text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["class"] for row in rows] == [*AWKWARD, *AWKWARD]
    right = sum(int(row["right"]) for row in rows[:3])
    assert right == round(9 * result["runs"][0]["top1"])
    assert {row["videos"] for row in rows} == {"3"}
    for row in rows:
        assert float(row["accuracy"]) == pytest.approx(int(row["right"]) / 3, abs=1e-5)
        assert (row["wrong_prediction"] in AWKWARD) == (int(row["wrong_count"]) > 0)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["two", "--scores", "s.npz"], 2, "scores of one RUN"),
        (["--cache", "."], 2, "name its folder with --report DIR"),
        (["--per-class", "classes.txt"], 3, "must end in .csv"),
        (["--report", "r", "--cache", "."], 4, "is no cache|no cache|cache.json"),
        (["nowhere"], 3, "not a checkpoint directory"),
    ],
)
def test_wrong_outputs_are_refused_before_any_video_is_opened(
    options: list[str],
    code: int,
    told: str,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("reskd.student_train.evaluate.videos.open_entry", None)
    assert main(["evaluate", "one", *options]) == code
    assert any(part in capsys.readouterr().err for part in told.split("|"))
    assert not (home / "r").exists()


def test_network_in_memory_is_measured_and_left_as_it_was(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = _reskd(capsys, home / "one")
    model, info = load_checkpoint(home / "one")
    experiment = load_experiment(str(home / "experiment.yaml"))
    model.train()
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    found = measure(
        model,
        experiment,
        read_index(experiment.data.index),
        role="student",
        size=info.size,
        split="val",
        processes=ALONE,
    )
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for key in found.keys() - {"clips_per_second"}:
        assert found[key] == expected[key], key
    assert {*expected} - {*found} == {
        *("run", "intervals", "confidence", "calibration_error", "calibration_bins")
    }


def test_network_in_memory_is_measured_by_the_protocol_that_is_asked_for(home: Path) -> None:
    model, info = load_checkpoint(home / "two")
    experiment = load_experiment(str(home / "experiment.yaml"))
    found = measure(
        model,
        replace(experiment, evaluation=EvaluationSpec(clips=2, crops=3)),
        read_index(experiment.data.index),
        role="student",
        size=info.size,
        split="val",
        processes=ALONE,
    )
    assert found["views"] == 6


def _code(port: int, arguments: list[str], folder: Path, rank: int) -> int:
    """Of the command, told by its environment which process it is, as torchrun does."""
    as_torchrun_does(rank, port)
    with (folder / f"{rank}.json").open("w") as out, redirect_stdout(out):
        return main([*arguments, "--scores", str(folder / f"{rank}.npz")])


def test_two_processes_together_predict_what_one_predicts_bit_for_bit(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = read_index(home / "index.jsonl")
    broken = index.path_of(index.split("train")[4])
    whole = broken.read_bytes()
    cut_off(broken)
    options = ["--split", "train", "--batch", "2", "--max-bad", "0.2"]  # five and four videos
    arguments = ["evaluate", str(home / "one"), *options, "--device", "cpu", "--json"]
    try:
        codes = in_two_processes(partial(_code, free_port(), arguments, tmp_path))
        alone = _reskd(capsys, home / "one", *options, "--scores", tmp_path / "alone.npz")
    finally:
        broken.write_bytes(whole)
    assert codes == [0, 0]
    assert (tmp_path / "1.json").read_text() == ""  # only the first talks and writes
    assert not (tmp_path / "1.npz").exists()
    together = json.loads((tmp_path / "0.json").read_text())
    for key in alone.keys() - {"clips_per_second", "scores"}:
        assert together[key] == alone[key], key
    assert alone["failed"] == 1
    with np.load(tmp_path / "0.npz") as found, np.load(tmp_path / "alone.npz") as expected:
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
        assert expected["scores"].any()
