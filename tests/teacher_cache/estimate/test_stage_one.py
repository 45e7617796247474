"""The benchmark of stage one: all its parts, what bounds it, and nothing left behind."""

import json
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.teacher_cache.estimate.parts import LANES, StagePart
from reskd.teacher_cache.estimate.stage_one import StageOneSpeed, lanes_of

ON_CPU = [name for name in LANES if name not in ("host-to-device", "device-to-host")]
OVERRIDES = ("-o", "views.size=48", "-o", "student.size=24", "-o", "views.short_side=48")


def part(name: str, seconds: float, cpu: float = 0.0) -> StagePart:
    return StagePart(
        name=name, lane=LANES[name], seconds_per_clip=seconds, cpu_seconds_per_clip=cpu
    )


def speed(*parts: StagePart, clips: int = 100, seconds: float = 1.0) -> StageOneSpeed:
    return StageOneSpeed(
        device="cuda",
        threads=16,
        batch=32,
        parts=parts,
        clips=clips,
        seconds=seconds,
        teacher_seconds=0.3,
        cpu_seconds=0.5,
        cpu_clips=125,
    )


def test_parts_of_one_lane_add_up_and_the_slowest_lane_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    found = speed(
        part("decode", 0.003, cpu=0.012),
        part("preprocess", 0.002, cpu=0.008),
        part("teacher", 0.003, cpu=0.001),
        part("encode", 0.001),
        part("write", 0.001),
    )
    assert lanes_of(found.parts) == pytest.approx(
        {"workers": 0.005, "device": 0.004, "writer": 0.001, "cores": 0.021 / 4}
    )
    assert found.bound == "cores"
    assert found.ratio == pytest.approx(100 * 0.021 / 4)
    assert found.device_busy == pytest.approx(0.4)
    assert found.teacher_ratio == pytest.approx(0.3)
    assert found.as_dict()["cpu_seconds_per_clip"] == pytest.approx(0.004)


def test_without_a_teacher_there_is_no_ratio_to_it() -> None:
    found = speed(part("decode", 0.01))
    assert (found.bound, found.teacher_ratio) == ("workers", None)


@pytest.mark.parametrize(("preprocess", "lane"), [("cpu", "workers"), ("device", "device")])
def test_command_measures_made_up_videos_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    preprocess: str,
    lane: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    how = ["--preprocess", preprocess, "--seconds", "0.2", "--json"]
    assert main(["benchmark", "stage-one", "demo", "--synthetic", *OVERRIDES, *how]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["parts"]) == ON_CPU
    assert found["parts"]["preprocess"]["lane"] == lane
    assert all(one["clips_per_second"] > 0 for one in found["parts"].values())
    assert found["bound"] in found["lanes"]
    assert found["clips_per_second"] > 0
    assert list(tmp_path.iterdir()) == []


def test_command_measures_the_videos_of_an_experiment(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tiny_experiment.parent.rglob("*"))
    assert main(["benchmark", "stage-one", str(tiny_experiment), "--seconds", "0.2"]) == 0
    assert sorted(tiny_experiment.parent.rglob("*")) == before
    shown = capsys.readouterr().out
    assert "bound by: " in shown
    assert all(name in shown for name in ON_CPU)
