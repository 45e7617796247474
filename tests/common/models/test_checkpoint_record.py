"""Checkpoints that were damaged or edited: refused by name, or read as they were written."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from reskd.common.errors import DataError
from reskd.common.models import checkpoint
from reskd.common.models.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
)
from reskd.common.models.checkpoint_record import CONFIG_FILE, LABELS_FILE, WEIGHTS_FILE
from tests.common.models.former_checkpoint import make_former
from tests.common.models.test_checkpoint import CLASSES, SPEC, save

Record = dict[str, Any]
FLIPS = 400
"""Bits of each file that are turned; those of the header of the weights among them."""


class TinyNetwork(nn.Module):
    """Something with weights, so that every byte of a checkpoint can be met by few flips."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, len(CLASSES))
        self.colours = SPEC


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoint, "build_model", lambda *_, **__: TinyNetwork())
    save(tmp_path / "tiny", TinyNetwork())  # type: ignore[arg-type]
    return tmp_path / "tiny"


def _state(folder: Path) -> tuple[CheckpointInfo, list[bytes]]:
    model, info = load_checkpoint(folder)
    return info, [value.numpy().tobytes() for value in model.state_dict().values()]


@pytest.mark.parametrize("name", [CONFIG_FILE, LABELS_FILE, WEIGHTS_FILE])
def test_turned_bit_is_refused_by_name_or_changes_nothing(tiny: Path, name: str) -> None:
    whole = (tiny / name).read_bytes()
    expected = _state(tiny)
    bits = random.Random(0).sample(range(8 * len(whole)), FLIPS)
    said = []
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tiny / name).write_bytes(damaged)
        try:
            assert _state(tiny) == expected, f"bit {bit} of {name}"
        except DataError as error:
            said.append(str(error))
    assert [message for message in said if name not in message] == []
    # The others are in parts of the header that nothing is read from, or that others say too.
    assert len(said) > 0.75 * FLIPS


def _edited(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / name
    value = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    text = json.dumps(change(value), ensure_ascii=False)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def test_checkpoint_of_before_there_were_seals_is_read(tiny: Path) -> None:
    expected = _state(tiny)
    make_former(tiny)
    assert b"labels_sha256" not in (tiny / CONFIG_FILE).read_bytes()
    assert _state(tiny) == expected


@pytest.mark.parametrize("before", [False, True], ids=["sealed", "of before"])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        (CONFIG_FILE, lambda config: {**config, "size": 40}),
        (CONFIG_FILE, lambda config: {**config, "experiment": {}}),
        (LABELS_FILE, lambda labels: labels[::-1]),
        (LABELS_FILE, lambda labels: labels[:-1]),
        (LABELS_FILE, lambda labels: {"0": labels[0]}),
    ],
    ids=["size", "experiment", "order", "number", "form"],
)
def test_edited_file_is_named_and_what_to_do(
    tiny: Path, before: bool, name: str, change: Callable[[Any], Any]
) -> None:
    if before:
        make_former(tiny)
    _edited(tiny, name, change)
    for read in (load_checkpoint, read_checkpoint_info):
        with pytest.raises(DataError, match=rf"its {name} is not what was written.*Restore it"):
            read(tiny)


def test_edited_files_of_weights_that_say_nothing_are_told_by_their_own_seals(tiny: Path) -> None:
    state = safetensors.torch.load_file(tiny / WEIGHTS_FILE)
    safetensors.torch.save_file(state, tiny / WEIGHTS_FILE)
    assert read_checkpoint_info(tiny).classes == CLASSES
    _edited(tiny, LABELS_FILE, lambda labels: labels[::-1])
    with pytest.raises(DataError, match=r"labels\.json is not what was written"):
        read_checkpoint_info(tiny)


def test_header_that_lost_its_seal_is_named(tiny: Path) -> None:
    sealed = (tiny / CONFIG_FILE).read_bytes()
    make_former(tiny)
    path = tiny / WEIGHTS_FILE
    path.write_bytes(path.read_bytes().replace(b"backbone_args", b"backbone_argz"))
    (tiny / CONFIG_FILE).write_bytes(sealed)
    with pytest.raises(DataError, match=r"model\.safetensors says of itself"):
        load_checkpoint(tiny)


@pytest.mark.parametrize("left", [(CONFIG_FILE,), (CONFIG_FILE, LABELS_FILE)], ids=str)
# Of before, equal weights were replaced file by file.
@pytest.mark.parametrize(("before", "same_weights"), [(0, 0), (0, 1), (1, 0)])
def test_files_left_of_the_checkpoint_before_leave_the_new_one_whole(
    tiny: Path, tmp_path: Path, left: tuple[str, ...], before: int, same_weights: int
) -> None:
    # As a reader meets them while the three are replaced, or a writer that was killed leaves them.
    old = tmp_path / "old"
    shutil.copytree(tiny, old)
    model, info = load_checkpoint(tiny)
    if before:
        make_former(old)
    if not same_weights:
        torch.nn.init.zeros_(next(model.parameters()))
    record = asdict(replace(info, classes=info.classes[::-1], size=48))
    kept = {name: record[name] for name in ("role", "size", "classes", "experiment")}
    save_checkpoint(tiny, model, spec=SPEC, **kept)
    expected = _state(tiny)
    assert expected[0].classes == CLASSES[::-1]
    for name in left:
        shutil.copy(old / name, tiny / name)
    assert _state(tiny) == expected
