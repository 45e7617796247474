"""A teacher of the user's, `recognizer: python`, through every command, and its changed source."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import reskd
from reskd.common import own_code
from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.teacher_cache.format.manifest import read_manifest
from tests.own_networks import TINY_NETWORK, write_module
from tests.tiny_experiment import training_videos


def forget(module: str) -> None:
    """As if the next command ran in a process of its own."""
    sys.modules.pop(module, None)
    importlib.invalidate_caches()
    own_code._trusted.clear()


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with a network, another one in every test."""
    monkeypatch.setattr(own_code, "_trusted", set())
    name = f"own_teacher_{abs(hash(request.node.name))}"
    write_module(tmp_path, name, TINY_NETWORK, monkeypatch)
    return name


def own(experiment: Path, module: str) -> Path:
    """The tiny experiment with the user's network as its teacher, trained for one epoch."""
    text = experiment.read_text(encoding="utf-8")
    model = text.partition("teacher:\n  model: ")[2].partition("\n")[0]
    mine = f"{{recognizer: python, backbone: '{module}:build', backbone_args: {{width: 6}}}}"
    mine_yaml = experiment.with_name("own.yaml")
    mine_yaml.write_text(
        text.replace(f"model: {model}", f"model: {mine}", 1)
        .replace("checkpoint: teacher", "checkpoint: own_teacher")
        .replace("training: {epochs: 2", "training: {epochs: 1"),
        encoding="utf-8",
    )
    return mine_yaml


@pytest.mark.slow  # ten commands
def test_every_command_takes_it_and_runs_no_code_that_a_run_names(
    module: str, tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = str(own(tiny_experiment, module))
    teacher = str(tiny_experiment.parent / "own_teacher")
    cache, run = str(tmp_path / "cache"), str(tmp_path / "run")
    few = ["-o", "student.training.epochs=1", "--no-validate"]
    video = str(training_videos(tiny_experiment)[0])
    assert main(["train-teacher", experiment]) == 0
    assert main(["cache-teacher", experiment, "--cache", cache]) == 0
    assert main(["train-student", experiment, "--cache", cache, "--run", run, *few]) == 0
    live = [*few, "--teacher", "live"]
    assert main(["train-student", experiment, "--run", f"{run}-live", *live]) == 0
    assert main(["models", "show", f"python:{module}:build", "--frames", "3", "--size", "24"]) == 0
    alone = (
        ["cache", "verify", cache, "--level", "semantic", "--rows", "2", "--seed", "1"],
        ["evaluate", teacher, "--clips-store-gb", "0"],
        ["predict", teacher, video],
        ["extract-features", teacher, video, str(tmp_path / "features.npz")],
        ["benchmark", "model", teacher, "--passes", "1"],
        ["export", teacher, str(tmp_path / "network.pt2")],
    )
    for command in alone:
        forget(module)
        capsys.readouterr()
        assert main(command) == 3, command
        assert f"{module}:build is named by what was read" in capsys.readouterr().err
        assert module not in sys.modules
        assert main([*command, "--trust-code"]) == 0, command
        assert not own_code._trusted, "trust ends with its command"
    forget(module)
    assert main([*alone[0], "--experiment", experiment]) == 0


def test_a_changed_source_goes_on_when_it_says_the_same(
    module: str, tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = str(own(tiny_experiment, module))
    cache, source = tmp_path / "cache", tmp_path / f"{module}.py"
    fill = ["cache-teacher", experiment, "--cache", str(cache)]
    assert main(["train-teacher", experiment, "--no-validate"]) == 0
    assert main(fill) == 0
    before = {path: path.read_bytes() for path in cache.rglob("c/**/*") if path.is_file()}
    source.write_text(f"# A comment.\n{TINY_NETWORK}")
    forget(module)
    capsys.readouterr()
    student = ["train-student", experiment, "--cache", str(cache), "--run", str(tmp_path / "run")]
    student += ["-o", "student.training.epochs=1", "--no-validate"]
    for command in (fill, student, ["cache", "extend", str(cache), "--views", "4", "--trust-code"]):
        assert main(command) == 4, command
        assert "--accept-source` compares 32 rows" in capsys.readouterr().err
    assert main([*fill, "--accept-source"]) == 0
    assert "rows are what the changed source" in capsys.readouterr().err
    assert len(read_manifest(cache).sources[f"{module}:build"]) == 2
    assert main(["cache", "verify", str(cache)]) == 0
    assert main(student) == 0
    assert before == {path: path.read_bytes() for path in before}

    source.write_text(TINY_NETWORK.replace("torch.relu(", "torch.sigmoid("))
    forget(module)
    assert main([*fill, "--accept-source"]) == 4
    assert "does not say what" in capsys.readouterr().err
    assert len(read_manifest(cache).sources[f"{module}:build"]) == 2
    source.write_text(TINY_NETWORK)
    forget(module)
    assert main(fill) == 0, "the source that it was made with is known still"


def test_save_teacher_makes_a_module_the_teacher(module: str, tiny_experiment: Path) -> None:
    experiment = reskd.load_experiment(own(tiny_experiment, module))
    mine = importlib.import_module(module).build(num_classes=3, width=6)
    folder = reskd.save_teacher(experiment, mine)
    assert folder == experiment.teacher.checkpoint
    model, info = reskd.load_checkpoint(folder)
    assert info.classes == reskd.read_index(experiment.data.index).classes
    clips = torch.randn(2, 3, 3, 48, 48)
    assert torch.equal(model(clips).logits_BK, mine.eval()(clips)[1])
    with pytest.raises(DataError, match="not those of"):
        reskd.save_teacher(experiment, torch.nn.Linear(2, 2))
