"""`reskd evaluate` where videos are not there: figures that say so, and an exit code."""

import json
import shutil
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from tests.student_train.random_checkpoint import random_checkpoint
from tests.tiny_experiment import cut_off


def _command(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> tuple[str, str]:
    """What the command prints on its way to an exit code."""
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--device", "cpu"]) == code
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_command_on_videos_that_are_not_there_prints_its_results_and_ends_with_5(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_experiment.write_text(
        tiny_experiment.read_text() + "evaluation: {metric: mean_average_precision}\n"
    )
    run = random_checkpoint(tmp_path / "run", tiny_experiment)
    for video in (tiny_experiment.parent / "videos").rglob("*.mp4"):
        video.unlink()
    text, told = _command(capsys, 5, run, "--report", tmp_path / "page")
    assert "split val: mAP - [unknown]  top-1 0.0000 [0.0000, 0.0000]" in text
    assert "3 of 3 videos are unreadable, more than the 0.50% that --max-bad allows" in told
    page = (tmp_path / "page" / "index.html").read_text()
    assert "There is no mAP to draw" in page
    files = tmp_path / "scores.npz", tmp_path / "classes.csv"
    printed, _ = _command(capsys, 5, run, "--json", "--scores", files[0], "--per-class", files[1])
    result = json.loads(printed, parse_constant=pytest.fail)
    assert (result["failed"], result["top1"]) == (3, 0)
    assert result["mean_average_precision"] is None
    assert result["intervals"]["mean_average_precision"]["low"] is None
    assert all(file.is_file() for file in files)
    text, _ = _command(capsys, 5, run, shutil.copytree(run, tmp_path / "other"))
    assert "unreadable ones count as wrong" in text
    assert "- [unknown]" in text
    _command(capsys, 0, run, "--max-bad", "1")


def test_share_of_unreadable_videos_to_allow_is_that_of_the_experiment_or_the_option(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny_experiment.read_text()
    strict, lax = (random_checkpoint(tmp_path / "strict", tiny_experiment), tmp_path / "lax")
    tiny_experiment.write_text(text.replace("decoder: pyav}", "decoder: pyav, max_bad: 0.4}"))
    random_checkpoint(lax, tiny_experiment)
    index = read_index(tiny_experiment.parent / "index.jsonl")
    cut_off(index.path_of(index.split("val")[1]))  # one of three
    _, told = _command(capsys, 5, strict)
    assert "1 of 3 videos" in told
    _command(capsys, 0, lax)
    _command(capsys, 5, strict, lax)  # the first run's counts
    _command(capsys, 0, lax, strict)
    _command(capsys, 0, strict, "--max-bad", "0.34")
    _command(capsys, 5, lax, "--max-bad", "0.33")
