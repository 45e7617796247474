"""`train-student --on-missing compute`: cache and student are those after cache-teacher."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import reskd
from reskd.common.cli.main import main
from reskd.common.dataset.importing.pipeline import import_folder
from reskd.common.errors import ExperimentError
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.teacher_cache.fill import writer
from reskd.teacher_cache.run_log import read_runs
from tests.student_train.two_processes import as_torchrun_does, free_port, in_two_processes
from tests.teacher_cache.handling import tree_of
from tests.tiny_experiment import CLASS_NAMES, TinyCache, make_tiny_videos

UNITS = 9
Capture = pytest.CaptureFixture[str]


def command(experiment: Path, cache: Path, *options: str, run: str = "run") -> list[str]:
    given = ["train-student", str(experiment), "--cache", str(cache), "--no-validate"]
    folder = str(experiment.parent / run)
    return [*given, "--run", folder, "-o", "student.training.epochs=1", "--device", "cpu", *options]


def weights(experiment: Path, run: str) -> dict[str, torch.Tensor]:
    return load_file(experiment.parent / run / WEIGHTS_FILE)


def drop_units(cache: Path, *units: int) -> None:
    """Forget that these were finished; their objects stay, as after a kill."""
    records = sorted((cache / "commits").iterdir())
    assert len(records) == UNITS
    for unit in units:
        records[unit].unlink()


@pytest.mark.parametrize("lacking", ["all", "some", "nothing"])
def test_filled_cache_and_student_are_those_after_cache_teacher(
    tiny_cache: TinyCache, lacking: str
) -> None:
    experiment = tiny_cache.experiment
    expected = tree_of(tiny_cache.cache)
    assert main(command(experiment, tiny_cache.cache, run="after")) == 0
    cache = tiny_cache.cache.with_name("filled")
    if lacking != "all":
        shutil.copytree(tiny_cache.cache, cache)
    if lacking == "some":
        drop_units(cache, 1, 5, 8)
    if lacking == "nothing":  # then the teacher need not be here
        shutil.rmtree(experiment.parent / "teacher")
    assert main(command(experiment, cache, "--on-missing", "compute", run="at once")) == 0
    assert tree_of(cache) == expected
    after, at_once = (weights(experiment, run) for run in ("after", "at once"))
    assert after.keys() == at_once.keys()
    assert all(torch.equal(after[name], at_once[name]) for name in after)


def test_python_function_fills_too(tiny_cache: TinyCache) -> None:
    experiment = reskd.load_experiment(tiny_cache.experiment, ["student.training.epochs=1"])
    cache, run = (tiny_cache.cache.with_name(name) for name in ("filled", "run"))
    given: dict[str, Any] = {"cache": cache, "validate": False, "device": "cpu"}
    reskd.train_student(experiment, run, on_missing="compute", **given)
    assert tree_of(cache) == tree_of(tiny_cache.cache)
    with pytest.raises(ExperimentError, match="--allow-incomplete"):
        reskd.train_student(experiment, run, on_missing="compute", allow_incomplete=True, **given)


@pytest.mark.usefixtures("ctrl_c_arrives")
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_stopped_while_filling_keeps_units_and_the_same_command_goes_on(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, number: str, code: int
) -> None:
    cache = tiny_cache.cache.with_name("filled")
    given = command(tiny_cache.experiment, cache, "--on-missing", "compute")
    submit = writer.BackgroundWriter.submit

    def submit_then_stop(self: writer.BackgroundWriter, *arguments: Any) -> None:
        submit(self, *arguments)
        if self._meters.units == 2:  # the third one is being written
            os.kill(os.getpid(), getattr(signal, number))

    with monkeypatch.context() as patched:
        patched.setattr(writer.BackgroundWriter, "submit", submit_then_stop)
        assert main(given) == code
    kept = len(list((cache / "commits").iterdir()))
    assert 2 <= kept < UNITS
    assert not (tiny_cache.experiment.parent / "run").exists()
    assert main(given) == 0
    assert tree_of(cache) == tree_of(tiny_cache.cache)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--allow-incomplete"], "choose one of the two", id="incomplete"),
        pytest.param(["--teacher", "live"], "choose one of the two", id="live"),
    ],
)
@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_contradictions_are_refused(
    tiny_cache: TinyCache, capsys: Capture, options: list[str], said: str, plan: list[str]
) -> None:
    given = command(tiny_cache.experiment, tiny_cache.cache, "--on-missing", "compute")
    assert main([*given, *options, *plan]) == 3
    assert said in capsys.readouterr().err


def test_no_cache_to_fill_is_refused(tiny_experiment: Path, capsys: Capture) -> None:
    given = ["train-student", str(tiny_experiment), "--on-missing", "compute"]
    for options in (["--plan"], ["--no-distill", "--run", str(tiny_experiment.parent / "run")]):
        assert main([*given, *options]) == 3
        assert "name its folder with --cache" in capsys.readouterr().err


@pytest.mark.parametrize("complete", [True, False])
def test_videos_that_are_new_in_the_index_are_not_added(
    tiny_cache: TinyCache, capsys: Capture, complete: bool
) -> None:
    """What the cache has begun is finished all the same."""
    whole = tree_of(tiny_cache.cache)
    if not complete:
        drop_units(tiny_cache.cache, 4)
    folder = tiny_cache.experiment.parent
    make_tiny_videos(folder / "more", videos_per_class=5)
    for name in CLASS_NAMES[:3]:
        shutil.copy(folder / "more" / name / "4.mp4", folder / "videos" / name)
    import_folder(
        folder / "videos", folder / "index.jsonl", val_fraction=0.2, decoder="pyav", overwrite=True
    )
    given = command(tiny_cache.experiment, tiny_cache.cache, "--on-missing", "compute")
    assert main(given) == 4
    said = capsys.readouterr().err
    assert "lacks" in said
    assert "cache extend" in said
    assert "--videos" in said
    assert tree_of(tiny_cache.cache) == whole


@pytest.mark.parametrize(
    ("dropped", "units"), [((2, 3), 2), ((), 0), (None, UNITS)], ids=["some", "none", "absent"]
)
def test_plan_says_what_would_be_computed(
    tiny_cache: TinyCache, capsys: Capture, dropped: tuple[int, ...] | None, units: int
) -> None:
    cache = tiny_cache.cache
    if dropped is None:
        shutil.rmtree(cache)
    else:
        drop_units(cache, *dropped)
    given = [*command(tiny_cache.experiment, cache, "--on-missing", "compute"), "--plan"]
    capsys.readouterr()
    assert main([*given, "--json"]) == 0
    filling = json.loads(capsys.readouterr().out)["filling"]
    assert (filling["units"], filling["teacher_clips"]) == (units, 3 * units)
    assert (filling["bytes"] > 0) == (units > 0)
    assert main(given) == 0
    said = capsys.readouterr().out
    assert (f"{3 * units} clips" if units else "lacks no unit") in said
    assert cache.exists() == (dropped is not None)


def _code_of_process(port: int, given: list[str], rank: int) -> int:
    as_torchrun_does(rank, port)
    return main(given)


@pytest.mark.slow
def test_two_processes_fill_one_cache_and_train_what_they_would_from_it(
    tiny_cache: TinyCache,
) -> None:
    experiment, filled = tiny_cache.experiment, tiny_cache.cache.with_name("filled")
    for run, cache in (("after", tiny_cache.cache), ("at once", filled)):
        given = command(experiment, cache, "--on-missing", "compute", run=run)
        assert in_two_processes(partial(_code_of_process, free_port(), given)) == [0, 0]
    assert tree_of(filled) == tree_of(tiny_cache.cache)
    assert sorted(run["units"] for run in read_runs(filled) if run.get("units")) == [4, 5]
    after, at_once = (weights(experiment, run) for run in ("after", "at once"))
    assert all(torch.equal(after[name], at_once[name]) for name in after)
