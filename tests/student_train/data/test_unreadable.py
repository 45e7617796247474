"""Unreadable videos count once and for the whole run, however many processes meet them."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import VideoEntry
from reskd.common.errors import StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.student_train.data.order import cut_batches, cut_parts, epoch_order
from reskd.student_train.data.unreadable import Unreadable
from tests.student_train.two_processes import WORLD, as_torchrun_does, free_port, in_two_processes
from tests.tiny_experiment import ALONE, training_videos

EPOCHS = 3
ENTRY = VideoEntry(id="a", path="a", labels=(0,), split="train", num_frames=1, fps=1.0)

Plan = list[list[list[list[int]]]]
"""Videos by epoch, step and process."""


def _plan(experiment_file: Path) -> Plan:
    training = load_experiment(str(experiment_file)).required_student().training
    return [
        [
            cut_parts(step, WORLD)
            for step in cut_batches(
                epoch_order(range(9), seed=training.seed, epoch=epoch), training.batch_size
            )
        ]
        for epoch in range(EPOCHS)
    ]


def _one_each(plan: Plan) -> list[int]:
    return [part[0] for part in plan[0][0]]


def _one_process_meets_all(plan: Plan) -> list[int]:
    return plan[0][0][1][:2]


def _in_the_last_step(plan: Plan) -> list[int]:
    return [part[0] for part in plan[0][-1]]


def _met_by_both_in_turn(plan: Plan) -> list[int]:
    met = [
        {video for step in epoch for video in step[rank]} for epoch in plan for rank in range(WORLD)
    ]
    return [min(met[0] & (met[3] | met[5]))]


@dataclass(frozen=True)
class Case:
    """Which videos are broken, and what is to come of it."""

    id: str
    bad: Callable[[Plan], list[int]]
    max_bad: float
    code: int


CASES = (
    Case("one-each", _one_each, 0.2, 5),  # 2 of 9 are more, 1 is not
    Case("one-process-meets-all", _one_process_meets_all, 0.2, 5),
    Case("in-the-last-step", _in_the_last_step, 0.2, 5),
    Case("met-by-both-in-turn", _met_by_both_in_turn, 0.12, 0),  # 1 of 9 is not more
)


@dataclass(frozen=True)
class Ended:
    """How a run of two processes ended."""

    codes: list[int]
    said: list[str]
    """By each process."""
    bad: list[str]
    """Ids of the broken videos."""
    run: Path


@pytest.fixture(scope="module")
def ended(
    tiny_experiment_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    """All cases, one after the other in the same two processes, since starting these is slow."""
    home = tmp_path_factory.mktemp("unreadable")
    folders = {case.id: home / case.id for case in CASES}
    bad: dict[str, list[str]] = {}
    for case in CASES:
        experiment = shutil.copytree(tiny_experiment_template.parent, folders[case.id])
        path = experiment / tiny_experiment_template.name
        videos = training_videos(path)
        broken = [videos[number] for number in case.bad(_plan(path))]
        for video in broken:
            video.write_bytes(b"no video")
        bad[case.id] = [video.relative_to(experiment / "videos").as_posix() for video in broken]
    runs = [(folders[case.id], case.max_bad) for case in CASES]
    codes = in_two_processes(partial(_codes, [free_port() for _ in runs], runs))
    return {
        case.id: Ended(
            codes=[own[number] for own in codes],
            said=[(folders[case.id] / f"{rank}.log").read_text() for rank in range(WORLD)],
            bad=bad[case.id],
            run=folders[case.id] / "run",
        )
        for number, case in enumerate(CASES)
    }


def _codes(ports: Sequence[int], runs: Sequence[tuple[Path, float]], rank: int) -> list[int]:
    """What torchrun starts: the same commands, told by the environment who it is."""
    codes = []
    for port, (folder, max_bad) in zip(ports, runs, strict=True):
        as_torchrun_does(rank, port)
        overrides = ["-o", f"student.training.epochs={EPOCHS}"]
        with (folder / f"{rank}.log").open("w") as log:
            sys.stdout.flush()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            given = ["train-student", str(folder / "experiment.yaml"), "--no-distill"]
            options = ["--no-validate", "--device", "cpu", "--max-bad", str(max_bad)]
            codes.append(main([*given, "--run", str(folder / "run"), *options, *overrides]))
    return codes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_processes_of_a_run_end_alike_and_name_every_video_once(
    ended: dict[str, Ended], case: Case
) -> None:
    found = ended[case.id]
    assert found.codes == [case.code] * WORLD, found.said
    for video in found.bad:
        assert "".join(found.said).count(f"left out: {video}") == 1
    for said in found.said:
        told = f"{len(found.bad)} of 9 videos are unreadable, more than --max-bad"
        assert said.count(told) == (1 if case.code else 0)
        assert "Traceback" not in said


def test_run_that_met_too_many_saves_no_epoch_and_stops_there(ended: dict[str, Ended]) -> None:
    for case in CASES:
        assert (ended[case.id].run / "states").exists() == (case.code == 0), case.id


@pytest.mark.parametrize(("num_read", "stops"), [(0, True), (1, False)])
def test_so_many_videos_in_a_row_stop_training(num_read: int, stops: bool) -> None:
    unreadable = Unreadable(dict.fromkeys(range(100), ENTRY), max_bad=1.0)
    for first in range(0, 20, 4):
        unreadable.note(dict.fromkeys(range(first, first + 4), "damaged"), num_read)
    assert unreadable.has_news
    with pytest.raises(StoppedShortError, match="20 videos in a row") if stops else nullcontext():
        unreadable.agree(ALONE)
