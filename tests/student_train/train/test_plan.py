"""What a plan says of the order in which a cache is read."""

import json
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.distill.arrays import ArraySpec
from reskd.student_train.train import plan

SMALL = 1 << 20


def _planned(experiment: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["train-student", str(experiment), "--plan", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("row_bytes", "cache_bytes", "memory_bytes", "pays"),
    [
        pytest.param(SMALL, 100, 99, True, id="does not fit"),
        pytest.param(SMALL, 99, 100, False, id="fits"),
        pytest.param(8 * SMALL, 100, 99, False, id="long rows"),
    ],
)
def test_blocks_pay_where_short_rows_come_from_disk(
    row_bytes: int, cache_bytes: int, memory_bytes: int, pays: bool
) -> None:
    arrays = [
        ArraySpec(name="logits", row_shape=(5,), dtype="float16"),
        ArraySpec(name="features", row_shape=(row_bytes,), dtype="uint8"),
    ]
    assert plan.blocks_pay(arrays, cache_bytes, memory_bytes=memory_bytes) == pays


def test_plan_says_when_blocks_would_be_faster_and_the_default_stays_shuffled(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = json.loads(_planned(tiny_experiment, capsys, "--json"))
    assert read["order"] == "shuffled"
    assert read["cache_bytes_of_all_epochs"] == 3 * read["cache_bytes_per_epoch"] > 0
    assert not read["blocks_would_be_faster"]
    assert "training.order" not in _planned(tiny_experiment, capsys)
    monkeypatch.setattr(plan, "machine_memory_bytes", lambda: 1000)
    assert json.loads(_planned(tiny_experiment, capsys, "--json"))["blocks_would_be_faster"]
    told = _planned(tiny_experiment, capsys)
    assert "do not fit into this machine's 1.0 kB of memory" in told
    assert "training.order=blocks" in told
    chosen = _planned(tiny_experiment, capsys, "-o", "student.training.order=blocks")
    assert "training.order=blocks" not in chosen
    live = json.loads(_planned(tiny_experiment, capsys, "--json", "--teacher", "live"))
    assert "order" not in live
