"""Saved states that were damaged: named, never trusted, and the one before only when asked for."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reskd.common.errors import DataError
from reskd.student_train.run.folder import STATES_FOLDER, RunFolder
from reskd.student_train.run.recipe_record import RECIPE_FILE
from reskd.student_train.run.state import (
    SEAL_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    RunPosition,
    read_state,
    state_name,
    write_state,
)

RECIPE = {"role": "student", "videos": ["a", "b"], "student": {"training": {"epochs": 3}}}
FILES = (WEIGHTS_FILE, STATE_FILE, RECIPE_FILE, SEAL_FILE)
FLIPS = 150


def network(seed: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """Weights and an optimiser that has taken a step."""
    torch.manual_seed(seed)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(run: Path, step: int, keep: int = 3) -> None:
    model, optimizer = network(step)
    place = RunPosition(epoch=1, step=step, steps_done=step, sums={"loss": 0.5})
    RunFolder(run, RECIPE, keep=keep).save(model, {"optimizer": optimizer}, place)


def state_of(run: Path, step: int) -> Path:
    return run / STATES_FOLDER / state_name(step)


def loaded(run: Path, resume_from: int | None = None) -> tuple[int, Tensor]:
    model, optimizer = network(99)
    folder = RunFolder(run, RECIPE, resume_from=resume_from)
    place = folder.load(model, {"optimizer": optimizer})
    return place.steps_done, model.weight.detach()


def turn_a_bit(path: Path, bit: int = 77) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_turned_bit_of_any_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    save(tmp_path, 4)
    state = state_of(tmp_path, 4)
    whole = (state / name).read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), FLIPS):
        turn_a_bit(state / name, bit)
        with pytest.raises(DataError, match=rf"state {state} is damaged: its {name} was changed"):
            read_state(state)
        (state / name).write_bytes(whole)
    assert read_state(state).sealed


def cut(state: Path) -> None:
    path = state / STATE_FILE
    path.write_bytes(path.read_bytes()[:-1])


def of_another_state(state: Path) -> None:
    shutil.copy(state.parent / "000000004" / SEAL_FILE, state / SEAL_FILE)


def all_but_the_step(state: Path) -> None:
    for name in FILES:
        shutil.copy(state.parent / "000000004" / name, state / name)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "state.pt was changed"),
        (of_another_state, "was changed"),
        (lambda state: (state / SEAL_FILE).unlink(), "seal.json is gone"),
        (lambda state: (state / STATE_FILE).unlink(), "it has no state.pt"),
        (lambda state: (state / RECIPE_FILE).unlink(), "it has no recipe.json"),
        (lambda state: (state / SEAL_FILE).write_text("[]"), "seal.json was changed"),
        (all_but_the_step, "that of another state"),
    ],
    ids=["cut", "other seal", "no seal", "no state", "no recipe", "no record", "other state"],
)
def test_damaged_state_is_named_with_the_way_on_and_the_one_before_taken_only_when_asked(
    tmp_path: Path, damage: Callable[[Path], Any], said: str
) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    expected = read_state(state_of(tmp_path, 4)).weights["weight"]
    damage(state_of(tmp_path, 6))
    with pytest.raises(DataError, match=rf"{said}.*once with --resume-from 4;.*--fresh"):
        loaded(tmp_path)
    assert state_of(tmp_path, 6).exists()
    step, weight = loaded(tmp_path, resume_from=4)
    assert step == 4
    assert torch.equal(weight, expected)


def test_only_whole_states_are_named_as_the_one_to_go_on_from(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    for step in (4, 6):
        turn_a_bit(state_of(tmp_path, step) / WEIGHTS_FILE)
    with pytest.raises(DataError, match="resume-from 2;"):
        loaded(tmp_path)
    with pytest.raises(DataError, match=r"000000004 is damaged.*resume-from 2;"):
        loaded(tmp_path, resume_from=4)
    turn_a_bit(state_of(tmp_path, 2) / RECIPE_FILE)
    with pytest.raises(DataError, match=r"no whole state before it, so start over with --fresh"):
        loaded(tmp_path)


@pytest.mark.parametrize(("states", "named"), [((2, 4), "2, 4"), ((), "none")], ids=str)
def test_state_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, states: tuple[int, ...], named: str
) -> None:
    for step in states:
        save(tmp_path, step)
    with pytest.raises(DataError, match=rf"no state after 3 steps.*takes one of {named}\."):
        loaded(tmp_path, resume_from=3)


def test_states_after_the_one_asked_for_are_made_again(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    whole = (state_of(tmp_path, 6) / WEIGHTS_FILE).read_bytes()
    turn_a_bit(state_of(tmp_path, 6) / WEIGHTS_FILE)
    folder = RunFolder(tmp_path, RECIPE, resume_from=4)
    model, optimizer = network(99)
    place = folder.load(model, {"optimizer": optimizer})
    folder.forget_later(place)
    assert [path.name for path in sorted((tmp_path / STATES_FOLDER).iterdir())] == [
        "000000002",
        "000000004",
    ]
    save(tmp_path, 6)
    assert (state_of(tmp_path, 6) / WEIGHTS_FILE).read_bytes() == whole
    assert loaded(tmp_path)[0] == 6


def test_state_of_before_there_were_seals_is_taken_and_said(tmp_path: Path) -> None:
    save(tmp_path, 4)
    state = state_of(tmp_path, 4)
    (state / SEAL_FILE).unlink()
    content = torch.load(state / STATE_FILE, weights_only=True)
    assert content.pop("sealed")
    torch.save(content, state / STATE_FILE)
    model, optimizer = network(99)
    folder = RunFolder(tmp_path, RECIPE)
    assert folder.load(model, {"optimizer": optimizer}).steps_done == 4
    assert "earlier version, without a seal" in folder.unproved
    save(tmp_path, 6)
    assert folder.load(model, {"optimizer": optimizer}).steps_done == 6
    assert folder.unproved == ""


def test_seal_says_step_recipe_and_files(tmp_path: Path) -> None:
    model, optimizer = network(0)
    write_state(
        tmp_path / state_name(5), model, {"o": optimizer}, RunPosition(steps_done=5), RECIPE
    )
    seal = json.loads((tmp_path / state_name(5) / SEAL_FILE).read_text())
    assert seal["step"] == 5
    assert seal["files"].keys() == {WEIGHTS_FILE, STATE_FILE, RECIPE_FILE}
    assert len(seal["recipe_sha256"]) == 64
