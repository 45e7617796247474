"""The log of a run: no line twice, none lost, nothing that is not JSON."""

import json
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reskd.common.errors import DataError
from reskd.student_train.run.log import (
    EVENTS_FILE,
    TENSORBOARD_FOLDER,
    log_start,
    open_log,
    read_events,
    read_log,
)


def _write(folder: Path, steps: list[int], *, after: int = 0) -> None:
    with open_log(folder, step=after, writes=True) as log:
        for step in steps:
            log.write("step", epoch=0, step=step, loss=step / 10)


def _steps(folder: Path) -> list[int]:
    return [event["step"] for event in read_events(folder, "step")]


def test_log_that_goes_on_from_an_earlier_step_drops_what_came_after_it(tmp_path: Path) -> None:
    _write(tmp_path, [20, 40, 60])
    _write(tmp_path, [60, 80], after=40)
    assert _steps(tmp_path) == [20, 40, 60, 80]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    _write(tmp_path, [20])
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"event": "step", "epo')
    assert _steps(tmp_path) == [20]
    _write(tmp_path, [40], after=20)
    assert _steps(tmp_path) == [20, 40]


def test_events_are_kept_apart_by_kind_and_numbers_reach_tensorboard(tmp_path: Path) -> None:
    with open_log(tmp_path, step=0, writes=True) as log:
        log.write("epoch", epoch=0, step=5, loss=0.25)
        log.write("validation", epoch=0, step=5, which="best", top1=0.5, protocol="one clip")
    assert [event["loss"] for event in read_events(tmp_path)] == [0.25]
    assert read_events(tmp_path, "validation")[0]["protocol"] == "one clip"
    board = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER)).Reload()
    assert sorted(board.Tags()["scalars"]) == ["epoch/loss", "validation/best/top1"]
    (point,) = board.Scalars("validation/best/top1")
    assert (point.step, point.value) == (5, 0.5)


def test_mean_over_nothing_is_null_since_json_has_no_word_for_it(tmp_path: Path) -> None:
    with open_log(tmp_path, step=0, writes=True) as log:
        log.write("validation", epoch=0, step=5, mean_average_precision=float("nan"))
    (line,) = (tmp_path / EVENTS_FILE).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["mean_average_precision"] is None


def test_start_stays_when_the_run_goes_on_later_and_is_replaced_from_the_same_step(
    tmp_path: Path,
) -> None:
    def start(step: int, device: str) -> None:
        log_start(tmp_path, epoch=0, step=step, facts={"device": device})

    start(0, "killed before it saved anything")
    _write(tmp_path, [20])
    start(0, "a")
    _write(tmp_path, [20, 40, 60])
    start(40, "killed as well")
    _write(tmp_path, [60], after=40)
    start(40, "b")
    _write(tmp_path, [60], after=40)
    found = [(line["event"], line["step"], line.get("device")) for line in read_log(tmp_path)]
    assert found == [
        *(("start", 0, "a"), ("step", 20, None), ("step", 40, None)),
        *(("start", 40, "b"), ("step", 60, None)),
    ]


@pytest.mark.parametrize(
    "line",
    [
        *(b"{", b"[]", b'{"event": "step"}', b"\xff", b"[" * 100_000),
        *(b'{"event": "step", "epoch": 0, "step": "1"}', b'{"event": [], "epoch": 0, "step": 1}'),
    ],
)
def test_damaged_log_is_refused_with_its_line(tmp_path: Path, line: bytes) -> None:
    _write(tmp_path, [20])
    with (tmp_path / EVENTS_FILE).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError, match=r"line 2 of .* --fresh"):
        read_events(tmp_path)


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with open_log(tmp_path, step=0, writes=False) as log:
        log.write("epoch", epoch=0, step=1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


def test_lines_that_states_rely_on_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(tmp_path, step=0, writes=True) as log:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
        for event in ("step", "epoch", "validation", "step"):
            log.write(event, epoch=0, step=1)
    sizes = [len(line) + 1 for line in (tmp_path / EVENTS_FILE).read_text().splitlines()]
    assert synced == [sum(sizes[:2]), sum(sizes[:3])]
