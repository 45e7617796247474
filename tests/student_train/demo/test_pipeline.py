"""The demo, with few clips and epochs: every command runs and the result says where things are."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reskd.common.cli.main import main
from reskd.common.experiment.load import load_experiment
from reskd.student_train.demo import pipeline as demo
from reskd.teacher_cache.verify.verify import verify_cache

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PRINTED = ("dataset import", "train-teacher", "cache-teacher", "cache verify", "train-student",
           "evaluate")  # fmt: skip


@pytest.fixture
def short_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips per class and split, one epoch each."""
    write_experiment = demo.write_experiment

    def write_short(path: Path, seed: int) -> dict[str, Any]:
        tree = write_experiment(path, seed)
        tree["teacher"]["training"]["epochs"] = tree["student"]["training"]["epochs"] = 1
        tree["views"]["count"] = 2
        tree["teacher"]["least_top1"] = 0.0  # after one epoch it knows nothing
        path.write_text(yaml.safe_dump(tree))
        return tree

    monkeypatch.setattr(demo, "write_experiment", write_short)
    monkeypatch.setattr(demo, "DEMO_CLIPS_PER_CLASS", {"train": 2, "test": 2})


@pytest.mark.usefixtures("short_demo")
def test_demo_prints_its_commands_and_its_json_names_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    for command in PRINTED:
        assert f"$ reskd {command}" in captured.err
    for model in ("teacher", "distilled", "plain", "plain_long"):
        assert 0 <= result[model]["top1"] <= 1
        assert (Path(result[model]["run"]) / "model.safetensors").is_file()
    assert result["plain_long"]["epochs"] == 3 * result["plain"]["epochs"]
    assert result["plain"]["size"] <= result["teacher"]["size"] / 2
    assert result["plain"]["gmacs"] < result["teacher"]["gmacs"] / 2
    assert Path(result["experiment"]).is_absolute()
    assert load_experiment(result["experiment"]).views.count == result["cache"]["views"]
    assert result["cache"]["units"] >= 8
    assert verify_cache(Path(result["cache"]["path"]), "bytes").findings == ()
    assert Path(result["curves"]).read_bytes().startswith(PNG_SIGNATURE)
    assert json.loads(Path(result["table"]).read_text())["teacher"] == result["teacher"]


@pytest.mark.parametrize("seed", [0, 101])
def test_write_experiment_sets_every_seed_and_nothing_else(tmp_path: Path, seed: int) -> None:
    demo.write_experiment(tmp_path / "experiment.yaml", seed)
    written = load_experiment(str(tmp_path / "experiment.yaml"))
    assert written.views.seed == seed
    assert written.teacher.training is not None
    assert written.teacher.training.seed == written.required_student().training.seed == seed
    assert written.views.size >= 2 * written.required_student().size
    assert written.views.count >= 4
    assert written.data.index == tmp_path / "index.jsonl"
