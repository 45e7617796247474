"""Exit codes, the table of commands, and that asking for help loads nothing heavy."""

import errno
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Never

import click
import pytest

from reskd.common.cli import lazy_group
from reskd.common.cli.benchmark import BENCHMARKS
from reskd.common.cli.main import COMMANDS, main
from reskd.common.console import emit
from reskd.common.errors import (
    CacheError,
    DataError,
    ExperimentError,
    LaunchError,
    PreemptedError,
    ReskdError,
    StoppedShortError,
)
from tests import REPOSITORY

HEAVY = (
    "torch",
    "torchmetrics",
    "torchvision",
    "timm",
    "zarr",
    "matplotlib",
    "av",
    "decord",
    "h5py",
)

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `reskd demo` with another body."""

    def run_body(body: Callable[[], object], *options: str) -> int:
        module = type("module", (), {"demo": click.command(body)})
        monkeypatch.setattr(lazy_group, "import_module", lambda _: module)
        return main([*options, "demo"])

    return run_body


@pytest.fixture
def run_failing(run: Run) -> Run:
    """Run `reskd demo` with a body that raises the given exception."""

    def run_raising(error: BaseException, *options: str) -> int:
        def body() -> Never:
            raise error

        return run(body, *options)

    return run_raising


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["config", "show", "--no-such-option", "demo"],
        ["config", "show"],
        ["config", "no-such-command"],
        ["config", "show", "demo", "-o", "student.training.epochs"],
        ["config", "show", "demo", "-o", "=3"],
        ["config", "show", "demo", "-o", "a..b=3"],
        ["cache-teacher", "demo", "--device"],
        [],
        ["config"],
    ],
)
def test_usage_mistake_ends_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(("Usage: reskd", "Error: Option"))


def test_misspelt_command_names_the_one_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-techer", "x.yaml"]) == 2
    assert "No such command 'train-techer'. Did you mean 'train-teacher'?" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
@pytest.mark.parametrize("beside", [True, False], ids=["of a run", "from elsewhere"])
def test_file_given_as_a_run_is_told_what_to_give(
    command: str, beside: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    if beside:
        (tmp_path / "config.json").touch()
    more = {"predict": ["x.mp4"], "export": ["x.onnx"]}.get(command, [])
    assert main([command, str(file), *more]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (f"Name its folder: {tmp_path}" if beside else "reskd import-checkpoint") in said


def test_malformed_override_says_what_it_should_look_like(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "show", "demo", "-o", "epochs"]) == 2
    assert "'epochs' is not of the form key.path=value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["config", "show", "demo", "-o", "student.trainin.epochs=3"], "Did you mean 'training'?"),
        (["config", "show", "no-such-experiment"], "No experiment 'no-such-experiment'"),
        (["cache-teacher", "demo", "--plan", "-o", "data.index=gone.jsonl"], "gone.jsonl"),
        (["train-teacher", "demo", "--run", "run"], "index.jsonl"),
        (["dataset", "show", "gone.jsonl"], "gone.jsonl"),
    ],
)
def test_wrong_experiment_or_missing_data_ends_with_3(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert expected in captured.err


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (ReskdError, 1),
        (ExperimentError, 3),
        (DataError, 3),
        (LaunchError, 3),
        (CacheError, 4),
        (StoppedShortError, 5),
        (PreemptedError, 75),
    ],
)
def test_our_error_ends_with_its_code_and_its_message_alone(
    kind: type[ReskdError | PreemptedError],
    exit_code: int,
    run_failing: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_failing(kind("row 7 of a.jsonl: no")) == exit_code == kind.exit_code
    assert capsys.readouterr().err == "Error: row 7 of a.jsonl: no\n"


def test_every_error_class_is_in_the_table_above() -> None:
    marks = test_our_error_ends_with_its_code_and_its_message_alone.pytestmark  # type: ignore[attr-defined]
    ours = {ReskdError, *ReskdError.__subclasses__(), PreemptedError}
    assert ours == {kind for kind, _ in marks[0].args[1]}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interruption_ends_with_130_and_says_how_to_go_on(
    error: BaseException, run_failing: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_failing(error) == 130
    assert "The same command goes on" in capsys.readouterr().err


def test_interruption_while_a_command_is_loaded_ends_with_130(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: str) -> Never:
        raise KeyboardInterrupt

    monkeypatch.setattr(lazy_group, "import_module", interrupted)
    assert main(["demo"]) == 130


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_ends_with_5_and_names_the_file(
    number: int, run_failing: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_failing(OSError(number, "full", "/cache/c/0")) == 5
    message = capsys.readouterr().err
    assert "no space left: cannot read or write /cache/c/0: full" in message
    assert "defect" not in message


@pytest.mark.parametrize(
    "error",
    [RuntimeError("odd"), ValueError("odd"), EOFError("odd")],
)
def test_unexpected_error_ends_with_1_and_a_place_but_no_traceback(
    error: Exception,
    run_failing: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RESKD_DEBUG", raising=False)
    assert run_failing(error) == 1
    message = capsys.readouterr().err
    assert f"unexpected {type(error).__name__} in {__file__}" in message
    assert "odd" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("error", [RuntimeError("odd"), DataError("odd")])
def test_debug_shows_the_traceback(
    error: Exception, run_failing: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run_failing(error, "--debug")
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_environment_can_ask_for_tracebacks_of_unexpected_errors_only(
    run_failing: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RESKD_DEBUG", "1")
    run_failing(RuntimeError("odd"))
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    run_failing(DataError("odd"))
    assert "Traceback" not in capsys.readouterr().err


def test_command_that_returns_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "demo"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("name: demo\n")
    assert captured.err == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_result_with_a_name_that_is_not_text_is_still_shown(
    as_json: bool, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    name = b"caf\xe9 \xe8\xb7\xb3.mp4".decode("utf-8", "surrogateescape")
    assert run(lambda: emit({"name": name}, as_json=as_json, text=name)) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"name": name} if as_json else shown == "caf\\udce9 跳.mp4\n"


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(project["version"])


@pytest.mark.parametrize("name", COMMANDS)
def test_command_in_the_table_exists_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, attribute = COMMANDS[name].partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help
    assert main([name, "--help"]) == 0
    assert f"Usage: reskd {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_in_the_table_exists_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", name, "--help"]) == 0
    assert f"Usage: reskd benchmark {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nonesuch"], ["--passes", "1", "nonesuch"], ["model", "nonesuch"]], ids=str
)
def test_benchmark_without_a_word_is_that_of_a_network(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *arguments]) == 3
    assert "There is no model 'nonesuch'" in capsys.readouterr().err


def test_help_lists_every_command_with_its_first_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["-h"]) == 0
    lines = {
        line.split()[0]: line.split()[1:]
        for line in capsys.readouterr().out.splitlines()
        if line.strip()
    }
    assert all(lines[name] for name in COMMANDS)


def test_help_of_everything_loads_no_heavy_library() -> None:
    # One process for all: what the first of them loaded would still be there at the end.
    script = (
        "import json, sys\n"
        "from reskd.common.cli.benchmark import BENCHMARKS\n"
        "from reskd.common.cli.main import COMMANDS, main\n"
        "calls = [['--help'], ['cache', '--help'], ['config', '--help']]\n"
        "calls += [[name, '--help'] for name in COMMANDS]\n"
        "calls += [['benchmark', name, '--help'] for name in BENCHMARKS]\n"
        "codes = [main(call) for call in calls]\n"
        "json.dump([codes, sorted(sys.modules)], sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    codes, loaded = json.loads(done.stderr)
    assert set(codes) == {0}
    assert {"reskd.teacher_cache.cli", "reskd.student_train.cli.train"} <= set(loaded)
    assert not set(HEAVY) & set(loaded)


def test_console_script_is_main() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"reskd": "reskd.common.cli.main:main"}
    installed = entry_points(group="console_scripts")["reskd"]
    assert installed.load() is main
