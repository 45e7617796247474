"""The campaign for a CUDA card, where there is none: rows are tried, and none can lose another."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.campaigns.gpu.__main__ import main
from tests.campaigns.gpu.campaign import all_rows
from tests.campaigns.gpu.recipes import TINY
from tests.campaigns.gpu.rows import Bench, Figures, Row, run_row, run_rows
from tests.campaigns.gpu.table import CACHED, GOALS, markdown


def good(bench: Bench) -> Figures:
    return {"rate": 2.0}


def twice(bench: Bench) -> Figures:
    return {"rate": 2 * bench.figures["good"]["rate"]}


def wrong(bench: Bench) -> Figures:
    raise ValueError("no such thing")


def lost(bench: Bench) -> Figures:
    os._exit(3)


def stuck(bench: Bench) -> Figures:
    time.sleep(100)
    return {}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(device=torch.device("cpu"), scale=replace(TINY, seconds=0.01), folder=tmp_path)


@pytest.mark.slow
def test_rows_that_fail_die_or_hang_lose_no_other(bench: Bench) -> None:
    rows = [
        Row(name="good", run=good),
        Row(name="wrong", run=wrong),
        Row(name="lost", run=lost),
        Row(name="card", run=good, card_only=True),
        Row(name="stuck", run=stuck, seconds=0.2),
        Row(name="twice", run=twice),
    ]
    found = {result.row: result for result in run_rows(rows, bench, seconds=100)}
    assert list(found) == [row.name for row in rows]
    reasons = {name: result.reason for name, result in found.items()}
    assert reasons["wrong"] == "ValueError: no such thing"
    assert reasons["lost"] == "its process ended with exit code 3"
    assert reasons["card"] == "no CUDA device"
    assert reasons["stuck"].startswith("no answer within")
    assert found["twice"].figures == {"rate": 4.0}  # by what the first process had found
    failed = [name for name, result in found.items() if result.status == "failed"]
    assert failed == ["wrong", "lost", "stuck"]
    assert {result.status for name, result in found.items() if name not in failed} == {
        "not measured"
    }


def test_rows_that_do_not_fit_into_the_time_are_said_to_be_left_out(bench: Bench) -> None:
    [result] = run_rows([Row(name="good", run=good)], bench, seconds=-1)
    assert (result.status, result.reason) == ("not measured", "out of time")


def test_names_of_rows_are_their_own_and_every_goal_has_a_row() -> None:
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names)
    assert set(GOALS) <= set(names)
    assert {f"stage one {network} {precision}{how}" for network, precision, how in CACHED} <= {
        *names
    }


@pytest.mark.parametrize(
    "name", ["device", "forward R50 float32", "preprocessing on the device"], ids=str
)
def test_row_runs_on_a_cpu_and_stays_not_measured(bench: Bench, name: str) -> None:
    [row] = [row for row in all_rows() if row.name == name]
    result = run_row(row, bench)
    assert (result.status, result.reason) == (
        "not measured",
        "no CUDA device; tried on the CPU",
    )
    assert result.figures


def test_table_shows_figures_of_a_card_only_and_reasons_of_failures(tmp_path: Path) -> None:
    rate = {"clips_per_second": 1234.4, "difference_features": 4e-4}
    rows = [
        {"row": "device", "status": "measured", "figures": {"name": "A card", "cores": 16}},
        {"row": "forward R50 float16", "status": "measured", "figures": rate},
        {"row": "forward R50 tf32", "status": "not measured", "figures": rate},
        {"row": "forward R152 tf32", "status": "failed", "reason": "RuntimeError: no\nmore"},
        {"row": "ghost BatchNorm", "status": "measured", "figures": {"ratio": 1.0724}},
    ]
    text = markdown({"rows": rows})
    lines = {tuple(line.split(" | ")[:2]): line for line in text.splitlines()}
    assert text.startswith("A card, 16 cores")
    assert " 1234 | not measured" in lines["| R50", "float16"]
    assert "4.0e-04" in lines["| R50", "float16"]
    assert "1234" not in lines["| R50", "tf32"]
    assert "failed: RuntimeError: no |" in lines["| R152", "tf32"]
    assert "| 1.07 | at most 1.15 |" in lines["| ghost BatchNorm", "step over a plain one"]
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    shown = CliRunner().invoke(main, ["--table", str(file)])
    assert shown.output == f"{text}\n"
