"""A checkpoint that replaces another one: whoever reads meets the old one or the new one, whole."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from errno import ENOSPC
from io import BufferedWriter
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from reskd.common.errors import DataError
from reskd.common.models.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
    weights_digest,
)
from reskd.common.models.registry import build_model
from tests.common.models.test_checkpoint import CLASSES, SPEC, make_model, save


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "teacher", make_model())
    return tmp_path / "teacher"


class _Dead(BaseException):
    """The process is gone: nothing it would do afterwards happens, cleaning up included."""


class _FailingFiles:
    """Every operation on files that writing takes, counted; the one of a number fails.

    Args:
        monkeypatch: Replaces the operations.
        killed: Whether the process ends there, half of a write done; else the disk is full.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, killed: bool) -> None:
        self.fails_at, self.count, self._killed = 0, 0, killed
        for owner, name in (
            *((Path, name) for name in ("mkdir", "open", "replace", "unlink")),
            *((os, name) for name in ("open", "fsync")),
        ):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def start(self, fails_at: int) -> None:
        self.fails_at, self.count = fails_at, 0

    def _wrapped(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self._next()
            result = operation(*arguments, **options)
            if isinstance(result, BufferedWriter):
                result = _FailingFile(result, self._next)
            return result

        return wrapped

    def _next(self) -> None:
        self.count += 1
        if self.fails_at and self._killed and self.count >= self.fails_at:
            raise _Dead
        if self.count == self.fails_at:
            raise OSError(ENOSPC, "No space left on device")


class _FailingFile:
    """A file opened to be written, of which half is written where writing fails."""

    def __init__(self, file: BufferedWriter, step: Callable[[], None]) -> None:
        self._file, self._step = file, step
        self.fileno, self.flush = file.fileno, file.flush

    def __enter__(self) -> "_FailingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> None:
        try:
            self._step()
        except BaseException:
            self._file.write(content[: len(content) // 2])
            raise
        self._file.write(content)


def _loaded(folder: Path) -> tuple[str, tuple[str, ...], object]:
    """Digest of the weights that a checkpoint gives, its classes, its experiment's name."""
    model, info = load_checkpoint(folder)
    assert info == read_checkpoint_info(folder)
    digest = weights_digest(model.state_dict())
    assert digest == info.weights_sha256
    return digest, info.classes, info.experiment["name"]


@pytest.mark.parametrize("killed", [False, True], ids=["full disk", "killed"])
@pytest.mark.parametrize("classes", [CLASSES, ("other", "two")], ids=["as before", "others"])
def test_checkpoint_replaced_is_the_old_or_the_new_one_wherever_writing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool, classes: tuple[str, ...]
) -> None:
    model = build_model(SPEC, num_classes=len(classes)).eval()

    def write_new(folder: Path) -> None:
        save_checkpoint(
            folder,
            model,
            role="teacher",
            spec=SPEC,
            size=32,
            classes=classes,
            experiment={"name": "new"},
        )

    save(tmp_path / "old", make_model())
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    with monkeypatch.context() as patch:
        files = _FailingFiles(patch, killed=killed)
        write_new(tmp_path / "new")
    assert files.count > 3 * 5
    before, after, found = _loaded(tmp_path / "old"), _loaded(tmp_path / "new"), []
    for number in range(1, files.count + 1):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "old", folder)
        with monkeypatch.context() as patch:
            _FailingFiles(patch, killed=killed).start(number)
            with pytest.raises((OSError, _Dead)):
                write_new(folder)
        found.append(_loaded(folder))
    renamed = found.index(after)
    assert found == [before] * renamed + [after] * (files.count - renamed)
    assert 1 < renamed < files.count - 2 * 5  # with the weights, before the two other files


@pytest.mark.parametrize("killed", [False, True], ids=["full disk", "killed"])
def test_first_checkpoint_is_none_until_its_last_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    model, folder, number = make_model(), tmp_path / "0", 0
    while not (folder / "config.json").exists():
        number += 1
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            _FailingFiles(patch, killed=killed).start(number)
            with suppress(OSError, _Dead):
                save(folder, model)
        if not (folder / "config.json").exists():
            with pytest.raises(DataError, match="is not a checkpoint directory"):
                load_checkpoint(folder)
    assert number > 3 * 5
    assert _loaded(folder)[1] == CLASSES


def test_reader_that_read_config_too_early_meets_one_whole_checkpoint(saved: Path) -> None:
    # As it looks to a process that reads while another one replaces: config.json is still the old.
    config, labels = ((saved / name).read_bytes() for name in ("config.json", "labels.json"))
    info = save(saved, make_model(), classes=("leap", *CLASSES[1:]))
    (saved / "config.json").write_bytes(config)
    (saved / "labels.json").write_bytes(labels)
    assert load_checkpoint(saved)[1] == read_checkpoint_info(saved) == read_back(info)
    assert info.weights_sha256.encode() not in config


def read_back(info: CheckpointInfo) -> CheckpointInfo:
    """The same after a way through JSON, which knows no paths."""
    experiment = json.loads(json.dumps(dict(info.experiment), default=str))
    return replace(info, experiment=experiment)


def test_weights_without_a_record_count_by_config_alone(saved: Path) -> None:
    # As checkpoints were before, and as another program writes them.
    state = safetensors.torch.load_file(saved / "model.safetensors")
    safetensors.torch.save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    assert load_checkpoint(saved)[1].classes == CLASSES
    save_file_of_others(saved)
    with pytest.raises(DataError, match=r"model\.safetensors are not those that config\.json"):
        load_checkpoint(saved)


def save_file_of_others(folder: Path) -> None:
    """Other weights under the same name, which say nothing about themselves."""
    state = {name: value.contiguous() for name, value in make_model().state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"format": "reskd-checkpoint/2"}', '{"format": "reskd-checkpoint/1"}']
)
def test_record_of_another_form_in_the_weights_is_passed_over(saved: Path, record: str) -> None:
    state = safetensors.torch.load_file(saved / "model.safetensors")
    safetensors.torch.save_file(state, saved / "model.safetensors", metadata={"reskd": record})
    assert load_checkpoint(saved)[1].classes == CLASSES
