"""The benchmark of stage two: its parts, what bounds it, and nothing left behind."""

import json
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.student_train.train.stage_two import StageTwoSpeed
from tests.tiny_experiment import TinyCache

SMALL = (
    *("-o", "views.size=32", "-o", "views.short_side=32", "-o", "student.size=16"),
    *("-o", "student.training.batch_size=2", "-o", "clip.num_clips=2"),
)


@pytest.mark.parametrize(
    ("read", "copy", "step", "bound", "ratio"),
    [
        pytest.param(0.1, 0.02, 0.05, "reader", 0.8, id="reader"),
        pytest.param(0.01, 0.02, 0.08, "device", 0.8, id="device"),
    ],
)
def test_the_slower_lane_bounds(
    read: float, copy: float, step: float, bound: str, ratio: float
) -> None:
    speed = StageTwoSpeed(
        device="cuda",
        clips=64,
        steps=60,
        read=read,
        copy=copy,
        step=step,
        together=0.125,
        wait_share=0.0,
    )
    assert speed.bound == bound
    assert speed.ratio == pytest.approx(ratio)
    assert speed.step_ratio == pytest.approx(step / 0.125)
    assert speed.as_dict()["clips_per_second"] == pytest.approx(512)


def test_command_measures_a_made_up_cache_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["stage-two", "demo", "--synthetic", *SMALL, "--seconds", "0.1", "--json"]
    assert main(["benchmark", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["clips_per_step"]) == (60, 2)
    assert list(found["parts"]) == ["read", "step"]
    assert min(part["seconds_per_step"] for part in found["parts"].values()) > 0
    assert 0 <= found["wait_share"] <= 1
    assert list(tmp_path.iterdir()) == []


def test_cache_with_too_few_videos_is_refused_with_what_helps(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["stage-two", str(tiny_cache.experiment), "--cache", str(tiny_cache.cache)]
    assert main(["benchmark", *arguments]) == 3
    assert "has videos for 2 steps of 4 clips; the measurement takes 41" in capsys.readouterr().err


@pytest.mark.parametrize("cache", [(), ("--cache", "c", "--synthetic")], ids=["none", "both"])
def test_command_takes_a_cache_or_makes_one_up(
    cache: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "stage-two", "demo", *cache]) == 2
    assert "make one up with --synthetic" in capsys.readouterr().err
