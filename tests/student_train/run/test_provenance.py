"""What a run remembers of how it was started, from the command line and from Python."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.errors import PreemptedError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import read_checkpoint_info
from reskd.student_train.run.folder import RunFolder
from reskd.student_train.run.log import EVENTS_FILE, log_start, read_events, read_log
from reskd.student_train.run.provenance import PACKAGES, RunStart, threads_before
from reskd.student_train.train import runs
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import ALONE, TinyCache

WHOLE = RunStart(
    command=("reskd",),
    folder=os.sep,
    learned_from="cache",
    cache="/cache",
    fingerprint="f",
    teacher_sha256="t",
    device="cuda:0, a GPU",
    processes=2,
    threads=1,
    versions={"python": "3"},
)
TIMES = ("seconds", "clips_per_second", "data_wait_share")


@pytest.fixture
def here(tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiment's folder, as the current one."""
    monkeypatch.chdir(tiny_cache.experiment.parent)
    return Path.cwd()


def _train(*options: str) -> int:
    words = ("experiment.yaml", *options, "--device", "cpu", "--no-validate")
    return main(["train-student", *words])


def _starts(run: Path) -> list[dict[str, Any]]:
    return read_events(run, "start")


def _timeless(run: Path) -> list[dict[str, Any]]:
    """The log without its starts and without what a clock has measured."""
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in read_log(run)
        if line["event"] != "start"
    ]


def test_run_from_a_cache_records_cache_teacher_and_machine(here: Path) -> None:
    epochs = ("-o", "student.training.epochs=1")
    assert _train(*epochs, "--cache", "cache", "--run", "run") == 0
    [start] = _starts(here / "run")
    assert start["command"] == [
        *("reskd", "train-student", str(here / "experiment.yaml"), *epochs),
        *("--cache", str(here / "cache"), "--run", str(here / "run")),
        *("--device", "cpu", "--no-validate"),
    ]
    manifest = CacheReader(here / "cache").manifest
    assert start["fingerprint"] == manifest.fingerprint
    assert start["teacher_sha256"] == read_checkpoint_info(here / "teacher").weights_sha256
    assert (start["learned_from"], start["cache"]) == ("cache", str(here / "cache"))
    assert (start["epoch"], start["step"], start["folder"]) == (0, 0, str(here))
    machine = ("cpu", 1, torch.get_num_threads())
    assert (start["device"], start["processes"], start["threads"]) == machine
    assert list(start["versions"]) == ["python", "system", *PACKAGES]
    assert start["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_command_that_a_run_records_trains_the_same_network(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    override = ("-o", "student.training.epochs=1", "-o", "data.index=index.jsonl")
    assert _train(*override, "--no-distill", "--run", 'a <b>"c') == 0
    command = _starts(here / 'a <b>"c')[0]["command"]
    monkeypatch.chdir("/")
    assert command[0] == "reskd"
    assert main([*command[1:], "--run", str(here / "again")]) == 0
    assert _timeless(here / "again") == _timeless(here / 'a <b>"c')


@pytest.mark.parametrize("cache", [[], ["--cache", "cache"]])
def test_run_from_labels_records_no_teacher(here: Path, cache: list[str]) -> None:
    options = ("-o", "student.training.epochs=1", "--no-distill", *cache)
    assert _train(*options, "--run", "run") == 0
    [start] = _starts(here / "run")
    assert (start["learned_from"], start["teacher_sha256"]) == ("labels", None)
    assert start["cache"] == (str(here / "cache") if cache else None)
    assert (start["fingerprint"] is None) == (not cache)


def test_stopped_run_records_both_starts_and_else_the_log_of_one_never_stopped(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunFolder.save

    def save_and_stop(self: RunFolder, *arguments: Any) -> None:
        save(self, *arguments)
        raise PreemptedError("asked to stop")

    student = ("--cache", "cache", "--run")
    assert _train(*student, "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", save_and_stop)
        assert _train(*student, "parts") == PreemptedError.exit_code
    assert len(_starts(here / "parts")) == 1
    assert _train(*student, "parts", "-o", "student.training.workers=1") == 0
    first, second = _starts(here / "parts")
    steps = _timeless(here / "whole")[0]["step"]
    assert [(line["epoch"], line["step"]) for line in (first, second)] == [(0, 0), (1, steps)]
    assert "student.training.workers=1" in second["command"]
    assert "student.training.workers=1" not in first["command"]
    assert _timeless(here / "parts") == _timeless(here / "whole")
    order = [line["event"] for line in read_log(here / "parts")]
    assert order == ["start", "epoch", "start", "epoch", "epoch"]


def test_finished_run_called_again_and_one_refused_leave_the_log_as_it_was(here: Path) -> None:
    options = ("-o", "student.training.epochs=1", "--no-distill", "--run", "run")
    assert _train(*options) == 0
    log = (here / "run" / EVENTS_FILE).read_bytes()
    assert _train(*options, "-o", "student.training.workers=1") == 0
    assert (here / "run" / EVENTS_FILE).read_bytes() == log
    assert _train(*options, "-o", "student.training.seed=1") == 3  # another recipe
    assert (here / "run" / EVENTS_FILE).read_bytes() == log


def test_run_from_python_records_its_start_without_a_command(here: Path) -> None:
    runs.train_teacher(
        load_experiment("experiment.yaml", ["teacher.training.epochs=1"]),
        here / "run",
        processes=ALONE,
        max_bad=0.0,
        fresh=False,
        validate=False,
    )
    [line] = _starts(here / "run")
    start = RunStart.of_line(line)
    assert start is not None
    assert (start.command, start.learned_from) == ((), "labels")
    kept = {key: value for key, value in line.items() if key in asdict(start)}
    assert json.loads(json.dumps(asdict(start))) == kept


@pytest.mark.parametrize(
    "damage",
    [
        *({"command": "reskd"}, {"command": [1]}, {"versions": None}, {"processes": "many"}),
        *({"learned_from": "a book"}, {"cache": ["x"]}),
    ],
)
def test_start_that_is_not_as_we_write_it_is_none(damage: dict[str, Any]) -> None:
    whole = WHOLE
    line = {"event": "start", "epoch": 0, "step": 0, "added later": 1, **asdict(whole)}
    assert RunStart.of_line(line) == whole
    assert RunStart.of_line({**line, **damage}) is None


@pytest.mark.parametrize(
    ("then", "now", "device", "before"),
    [(4, 2, "cpu", 4), (2, 2, "cpu", None), (4, 2, "cuda:0, a GPU", None)],
)
def test_other_number_of_threads_counts_on_a_cpu(
    tmp_path: Path, then: int, now: int, device: str, before: int | None
) -> None:
    start = replace(WHOLE, threads=now, device=device)
    assert threads_before(tmp_path, start) is None  # a run that begins
    log_start(tmp_path, epoch=0, step=0, facts=asdict(replace(start, threads=then)))
    assert threads_before(tmp_path, start) == before
