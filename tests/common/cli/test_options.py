"""A command as it was typed: every word, with absolute paths, processes included."""

from pathlib import Path

import click
import pytest

from reskd.common.cli.options import command_line, experiment_argument, override_option


@pytest.fixture(autouse=True)
def _alone_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def _typed(*words: str) -> list[str]:
    """The command line of a command `fit` below a program, called with some words."""
    found: list[list[str]] = []

    @click.group()
    def program() -> None: ...

    @program.command("fit")
    @experiment_argument
    @click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
    @override_option
    @click.option("--cache", type=click.Path(path_type=Path))
    @click.option("--batch", "batch_size", type=int, default=8)
    @click.option("--twice/--once", default=None)
    @click.option("--fresh", is_flag=True)
    @click.pass_context
    def fit(context: click.Context, /, **_: object) -> None:
        found.append(command_line(context))

    program.main(["fit", *words], prog_name="other", standalone_mode=False)
    return found[0]


def test_defaults_are_left_out_and_paths_start_at_the_root(tmp_path: Path) -> None:
    assert _typed("demo") == ["reskd", "fit", "demo"]
    assert _typed("demo", "--cache", "a b/c", "r1", "--batch", "8") == [
        *("reskd", "fit", "demo", str(tmp_path / "r1")),
        *("--cache", str(tmp_path / "a b/c"), "--batch", "8"),
    ]


def test_experiment_that_is_a_file_becomes_absolute_and_an_installed_one_stays(
    tmp_path: Path,
) -> None:
    assert _typed("actnet/r152_to_r50")[2:] == ["actnet/r152_to_r50"]
    (tmp_path / "demo").write_text("name: mine\n")
    assert _typed("demo")[2:] == [str(tmp_path / "demo")]


@pytest.mark.parametrize("flags", [["--once"], ["--twice", "--fresh"], ["--fresh"]])
def test_flags_are_said_as_they_were_typed(flags: list[str]) -> None:
    assert _typed("demo", *flags)[3:] == flags


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("student.training.epochs=3", "student.training.epochs=3"),
        ("name=./x", "name=./x"),
        ("data.index=i.jsonl", "data.index={here}/i.jsonl"),
        ("data.index='/i x.jsonl'", "data.index='/i x.jsonl'"),
        ("data.index=i x", 'data.index="{here}/i x"'),
        ("data={index: i, decoder: pyav}", 'data={{"index": "{here}/i", "decoder": "pyav"}}'),
        ("teacher.checkpoint=null", "teacher.checkpoint=null"),
    ],
)
def test_paths_in_overrides_become_absolute(override: str, expected: str, tmp_path: Path) -> None:
    words = _typed("demo", "-o", "name=first", "--override", override)
    assert words[3:] == ["-o", "name=first", "-o", expected.format(here=tmp_path)]


MEETING = {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "1"}, ""),
        (
            {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"},
            "torchrun --nproc-per-node 2 --no-python --",
        ),
        ({"WORLD_SIZE": "3"}, "torchrun --nproc-per-node 3 --no-python --"),
        (
            {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"},
            "torchrun --nnodes 2 --nproc-per-node 4 --no-python --",
        ),
    ],
)
def test_several_processes_are_started_by_torchrun(
    environment: dict[str, str], launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**MEETING, **environment}.items():
        monkeypatch.setenv(name, value)
    assert _typed("demo") == [*launcher.split(), "reskd", "fit", "demo"]


def test_tasks_of_a_step_are_started_by_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SRUN, "SLURM_NTASKS": "2", "SLURM_NODELIST": "n1"}.items():
        monkeypatch.setenv(name, value)
    assert _typed("demo") == ["srun", "--ntasks", "2", "reskd", "fit", "demo"]
