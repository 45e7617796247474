"""Foreign files are read for their tensors; whatever else they hold is never run."""

import json
import os
import pickle
import re
import runpy
import subprocess
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.common.models.importing.weights_file import read_weights

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(7)}


def leave_mark(marker: Path) -> None:
    marker.touch()


class RunsWhenLoaded:
    """A value whose pickle creates a file when it is read without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return leave_mark, (self.marker,)


class DictOfItsOwn(dict[str, Any]):
    """As easydict and its like make them."""

    def __init__(self, *items: Any, **more: Any) -> None:
        super().__init__(*items, **more)
        self.__dict__["note"] = 1


class ListOfItsOwn(list[int]):
    """A list that pickles as an object of its class."""


class WithSlots:
    """An object whose state is no dict."""

    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 1


def save(content: object, path: Path, *, new_format: bool) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=new_format)


def assert_is_state(path: Path) -> None:
    tensors = read_weights(path).tensors
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
    tensors = read_weights(tmp_path / "weights.safetensors").tensors
    assert set(tensors) == set(STATE)
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("new_format", [True, False])
def test_objects_beside_the_weights_become_placeholders_and_nothing_runs(
    new_format: bool, tmp_path: Path
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    beside = {
        "args": Namespace(lr=0.1, folder=Path("x"), best=np.float64(1)),
        "array": np.arange(3),
        "a dict": DictOfItsOwn(a=DictOfItsOwn(b=1)),
        "a list": ListOfItsOwn([1, 2]),
        "counts": defaultdict(list, a=[1]),
        "last": deque([1.5, 2.5], maxlen=3),
        "slots": WithSlots(),
        "class": json.JSONDecoder,
        "runs": RunsWhenLoaded(marker),
    }
    save({"state_dict": STATE, "meta": beside}, path, new_format=new_format)
    torch.load(path, weights_only=False)
    assert marker.exists()  # it does run something where nobody takes care
    marker.unlink()
    weights = read_weights(path)
    assert all(torch.equal(weights.tensors[name], STATE[name]) for name in STATE)
    assert not marker.exists()
    names = {"argparse.Namespace", "collections.defaultdict", f"{__name__}.leave_mark"}
    assert names | {f"{__name__}.DictOfItsOwn"} <= set(weights.placeholders)


@pytest.mark.parametrize("new_format", [True, False])
def test_weights_inside_a_dict_of_its_own_are_found(new_format: bool, tmp_path: Path) -> None:
    save({"state_dict": DictOfItsOwn(STATE)}, tmp_path / "weights.pth", new_format=new_format)
    assert_is_state(tmp_path / "weights.pth")


class Evil:
    """Pickles to a call of a named function."""

    def __init__(self, call: Callable[..., Any], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        (os.system, ("touch {mark}",), f"{os.name}.system"),
        (eval, ("open({mark!r}, 'w')",), "builtins.eval"),
        (exec, ("open({mark!r}, 'w')",), "builtins.exec"),
        (subprocess.Popen, (["touch", "{mark}"],), "commands.Popen"),
        (runpy.run_path, ("{mark}",), "runpy.run_path"),
        (pickle.loads, (b"N.",), "pickle.loads"),
        (torch.load, ("{mark}",), "torch.serialization.load"),
    ],
    ids=["system", "eval", "exec", "popen", "runpy", "pickle", "torch-load"],
)
def test_file_that_starts_programs_is_refused_and_nothing_runs(
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: str,
    nested: bool,
    new_format: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pth"
    filled = (
        each.replace("{mark}", str(mark)).replace("{mark!r}", repr(str(mark)))
        if isinstance(each, str)
        else each
        for each in arguments
    )
    evil: object = Evil(call, *filled)
    if nested:
        evil = {"state": [(Namespace(hidden=evil),)]}
    save({"state_dict": STATE, "meta": evil}, path, new_format=new_format)
    assert main(["import-checkpoint", str(path), str(tmp_path / "out")]) == 3
    message = capsys.readouterr().err
    assert f"{path} was not loaded: it asks for {named}, with which" in message
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_weights_that_a_function_would_make_are_not_found(tmp_path: Path) -> None:
    content = {"state_dict": RunsWhenLoaded(tmp_path / "marker")}
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(DataError, match="has no state dict: state_dict is no tensor"):
        read_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("key", [None, "model"])
def test_pickled_network_is_refused_with_a_command_that_helps(
    key: str | None, new_format: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torch.nn.Linear(3, 2)
    path = tmp_path / "whole.pth"
    save(network if key is None else {key: network, "epoch": 1}, path, new_format=new_format)
    with pytest.raises(DataError, match=r"Python object.*without running its code") as caught:
        read_weights(path)
    if not new_format and key:  # torch of old stops before the key is known
        return
    command = re.findall(r'python -c "(.*?)"', str(caught.value))[0]
    monkeypatch.chdir(tmp_path)
    exec(command, {})  # what the message says, in the place it says it for
    assert torch.equal(read_weights(tmp_path / "weights.pth").tensors["weight"], network.weight)


def test_scripted_network_is_refused_with_a_command(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "whole.pt")
    with pytest.raises(DataError, match=r"TorchScript.*t\.jit\.load\('.*whole\.pt'\)\.state_d"):
        read_weights(tmp_path / "whole.pt")


def test_protocol_that_torch_does_not_read_is_refused_with_a_command(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "four.pth", pickle_protocol=4)
    with pytest.raises(DataError, match=r"four\.pth is a pickle of a protocol.*python -c"):
        read_weights(tmp_path / "four.pth")


@pytest.mark.parametrize("new_format", [True, False])
def test_file_cut_off_is_refused(new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save(STATE, path, new_format=new_format)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"weights\.pth cannot be read as a torch.* cut off"):
        read_weights(path)


def test_safetensors_cut_off_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"cannot be read as safetensors.*cut off"):
        read_weights(path)


@pytest.mark.parametrize(("name", "saved_as"), [("a.bin", "safetensors"), ("a.safetensors", "pth")])
def test_file_is_read_as_what_it_is_whatever_its_name(
    name: str, saved_as: str, tmp_path: Path
) -> None:
    if saved_as == "pth":
        torch.save(STATE, tmp_path / name)
    else:
        safetensors.torch.save_file(STATE, tmp_path / name)
    assert set(read_weights(tmp_path / name).tensors) == set(STATE)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty. Fetch it again"),
        (b"<html>not found</html>", "is a web page"),
        (b"\n <!DOCTYPE html><title>Sign in</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs.*git lfs pull"),
        (b'{"weight_map": {"a": "b"}}', "is JSON.*in pieces"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip. Unpack"),
        (b"garbage", "cannot be read as a torch checkpoint"),
        (b"PK\x03\x04rest of it", "cut off after 14 bytes"),
    ],
    ids=["empty", "html", "doctype", "lfs", "json", "hdf5", "gzip", "garbage", "half-zip"],
)
def test_file_of_something_else_is_named(
    name: str, content: bytes, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){name} .*{told}"):
        read_weights(tmp_path / name)


def test_archives_are_named(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "net.pth", "net.pth")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "net.pth", "net.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * 1_000_000)
    for name, told in (
        ("a.zip", "zip archive.*holds net.pth"),
        ("a.tar", "tar archive.*holds net.pth"),
        ("bomb.pth", "many times its own size"),
    ):
        with pytest.raises(DataError, match=told):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["pytorch_model.bin", "config.json"], "Name the file of its weights: pytorch_model.bin"),
        (["readme.md"], "It holds readme.md; no file of weights"),
        (["model.safetensors", "config.json", "labels.json"], "checkpoint directory of this prog"),
        ([".metadata", "__0_0.distcp"], "in pieces.*dcp_to_torch"),
    ],
)
def test_folder_is_refused_naming_what_to_give(
    files: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    assert main(["import-checkpoint", str(folder), str(tmp_path / "out")]) == 3
    assert re.search(told, capsys.readouterr().err)


def test_few_numbers_that_claim_to_be_many_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**12)}, tmp_path / "weights.pth")
    with pytest.raises(DataError, match="a is no tensor"):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # torch tells that it does so
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "holds list, not a dict"),
        (torch.ones(2), "holds Tensor, not a dict"),
        ({"epoch": 3, "args": "x"}, "epoch, args are no tensor"),
        ({"state_dict": {}}, "state_dict is no tensor or empty"),
        ({"state_dict": {**STATE, "odd": "text"}}, "odd is no tensor"),
        ({**STATE, "sparse": torch.ones(2).to_sparse()}, "sparse is no tensor"),
    ],
)
def test_file_without_a_state_is_refused_saying_what_it_holds(
    content: object, told: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=told):
        read_weights(tmp_path / "weights.pth")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*gone\.pth"):
        read_weights(tmp_path / "gone.pth")
