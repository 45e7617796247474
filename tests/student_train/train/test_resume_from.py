"""A run whose newest state is damaged stops, and goes on from the one before when told to."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reskd.common.cli.main import main
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.student_train.run.folder import STATES_FOLDER
from reskd.student_train.run.log import read_events
from tests.student_train.run.test_state import turn_a_bit
from tests.tiny_experiment import TinyCache


def test_run_with_a_damaged_state_goes_on_from_the_one_before_only_when_asked(
    tiny_cache: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["train-student", str(tiny_cache.experiment), "--cache", str(tiny_cache.cache)]
    command += ["--run", str(run), "--no-validate", "-o", "student.training.epochs=3"]
    assert main(command) == 0
    weights = load_file(run / WEIGHTS_FILE)
    before, newest = sorted((run / STATES_FOLDER).iterdir())
    turn_a_bit(newest / "state.pt", 4711)
    capsys.readouterr()
    assert main(command) == 3
    said = capsys.readouterr().err
    assert f"The state {newest} is damaged: its state.pt was changed" in said
    assert f"--resume-from {int(before.name)};" in said
    assert main([*command, "--resume-from", "1"]) == 3
    assert main([*command, "--fresh", "--resume-from", str(int(before.name))]) == 2
    assert newest.exists()
    assert main([*command, "--resume-from", str(int(before.name))]) == 0
    assert main(command) == 0
    again = load_file(run / WEIGHTS_FILE)
    assert [name for name in weights if not torch.equal(weights[name], again[name])] == []
    assert [event["epoch"] for event in read_events(run)] == [0, 1, 2]
