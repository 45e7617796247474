"""Foreign files are read for their tensors; whatever else they hold is never run."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.common.models.importing.safe_file import read_tensors

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(7)}


def leave_mark(marker: Path) -> None:
    marker.touch()


class RunsWhenLoaded:
    """A value whose pickle creates a file when it is read without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return leave_mark, (self.marker,)


def assert_is_state(path: Path) -> None:
    tensors = read_tensors(path)
    assert list(tensors) == list(STATE)
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": OrderedDict(STATE), "meta": {"epoch": 50, "time": "now", "config": "x = 1"}},
        {"model": STATE, "epoch": 3},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {"state_dict": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    ],
)
@pytest.mark.parametrize("new_format", [True, False])
def test_state_is_found_wherever_it_lies(
    content: dict[str, object], new_format: bool, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert_is_state(path)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.bool_])
def test_numbers_of_numpy_among_the_notes_do_no_harm(kind: type, tmp_path: Path) -> None:
    meta = {"hook_msgs": {"best_score": kind(1)}, "type": np.dtype(kind)}
    torch.save({"state_dict": STATE, "meta": meta}, tmp_path / "weights.pth")
    assert_is_state(tmp_path / "weights.pth")


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "weights.safetensors")
    tensors = read_tensors(tmp_path / "weights.safetensors")
    assert set(tensors) == set(STATE)
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("beside", ["meta", "state_dict"])
def test_file_that_would_run_something_is_refused_and_nothing_runs(
    new_format: bool, beside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    content = {"state_dict": STATE, beside: RunsWhenLoaded(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    torch.load(path, weights_only=False)
    assert marker.exists()  # it does run something where nobody takes care
    marker.unlink()
    assert main(["import-checkpoint", str(path), str(tmp_path / "out")]) == 3
    message = capsys.readouterr().err
    assert f"{path} was not loaded: it asks for " in message
    assert f"{__name__}.leave_mark" in message
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_every_unknown_class_of_a_file_is_named(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "a": json.JSONDecoder, "b": Path("x")}
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(
        DataError, match=r"json\.decoder\.JSONDecoder.*pathlib.*save its `state_dict` alone"
    ):
        read_tensors(tmp_path / "weights.pth")


@pytest.mark.parametrize("new_format", [True, False])
def test_file_cut_off_is_refused(new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"weights\.pth cannot be read as a torch checkpoint"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_file_of_something_else_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} cannot be read as"):
        read_tensors(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # torch tells that it does so
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "holds list, not a dict"),
        (torch.ones(2), "holds Tensor, not a dict"),
        ({"epoch": 3, "args": "x"}, "epoch, args are no tensor"),
        ({"state_dict": {}}, "its list is no tensor or empty"),
        ({"state_dict": {**STATE, "odd": "text"}}, "odd is no tensor"),
        ({**STATE, "sparse": torch.ones(2).to_sparse()}, "sparse is no tensor"),
    ],
)
def test_file_without_a_state_is_refused_saying_what_it_holds(
    content: object, told: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=told):
        read_tensors(tmp_path / "weights.pth")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*gone\.pth"):
        read_tensors(tmp_path / "gone.pth")
