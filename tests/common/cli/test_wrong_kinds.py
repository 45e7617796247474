"""A pipe, a folder or a device where a command expects a file: exit code 3, and no waiting."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reskd.common.cli.main import main

COMMANDS = {
    "experiment": ["config", "show", "X"],
    "index": ["dataset", "check", "X"],
    "shown index": ["dataset", "show", "X"],
    "frames of index": ["dataset", "extract-frames", "X", "--out", "frames.h5"],
    "list": ["dataset", "import", "mmaction", "X", "--videos", "videos", "--out", "i.jsonl"],
    "weights": ["import-checkpoint", "X", "made"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "folder", "device"],
)
def test_input_of_the_wrong_kind_ends_with_3_or_usage(
    command: str,
    make: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    name = "x.yaml" if command == "experiment" else "x.jsonl"
    make(tmp_path / name)
    code = main([part.replace("X", name) for part in COMMANDS[command]])
    assert code in (2, 3)  # 2: click itself looks at some arguments
    assert name in capsys.readouterr().err
