"""Repair computes the units with findings anew, and no others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.errors import CacheError
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.verify.repair import repair_cache
from tests.teacher_cache.handling import OPTIONS, extend, flip_a_bit, tree_of
from tests.tiny_experiment import TinyCache

OBJECT = "features/c/0/3/0/0/0/0"


@pytest.mark.parametrize(
    ("damage", "recomputed"),
    [
        (lambda cache: flip_a_bit(cache / OBJECT), [3]),
        (lambda cache: (cache / OBJECT).unlink(), [3]),
        (lambda cache: (cache / commit_key(1, 5)).unlink(), [5]),
        (lambda cache: flip_a_bit(cache / commit_key(1, 0)), [0]),
        (lambda cache: flip_a_bit(cache / "features/zarr.json"), []),
    ],
)
def test_damage_is_repaired_to_the_very_bytes_and_nothing_else_is_touched(
    tiny_cache: TinyCache, damage: Callable[[Path], None], recomputed: list[int]
) -> None:
    whole = tree_of(tiny_cache.cache)
    damage(tiny_cache.cache)
    times = {path: path.stat().st_mtime_ns for path in tiny_cache.cache.glob("logits/c/0/*/*")}
    experiment = load_experiment(str(tiny_cache.experiment))
    facts, report = repair_cache(experiment, tiny_cache.cache, OPTIONS)
    assert [item["unit"] for item in facts["recomputed"]] == recomputed
    assert report.findings == ()
    assert tree_of(tiny_cache.cache) == whole
    touched = {int(path.parent.name) for path, at in times.items() if path.stat().st_mtime_ns != at}
    assert touched == set(recomputed)


def test_units_of_an_extension_are_repaired_by_the_run_that_wrote_them(
    tiny_cache: TinyCache,
) -> None:
    extend(tiny_cache, views=6, targets=("logit_map",))
    whole = tree_of(tiny_cache.cache)
    flip_a_bit(tiny_cache.cache / "features/c/1/3/0/0/0/0")
    flip_a_bit(tiny_cache.cache / "logit_map/c/1/2/0/0/0/0")
    facts, _ = repair_cache(load_experiment(str(tiny_cache.experiment)), tiny_cache.cache, OPTIONS)
    assert facts["recomputed"] == [{"generation": 2, "unit": 3}, {"generation": 3, "unit": 2}]
    assert tree_of(tiny_cache.cache) == whole


def test_damaged_manifest_is_not_guessed_at(tiny_cache: TinyCache) -> None:
    flip_a_bit(tiny_cache.cache / "cache.json")
    with pytest.raises(CacheError, match=r"cache\.json"):
        repair_cache(load_experiment(str(tiny_cache.experiment)), tiny_cache.cache, OPTIONS)


@pytest.mark.parametrize("damaged", [False, True], ids=["alone", "beside damage"])
def test_command_says_that_deleting_a_stray_file_is_enough(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str], damaged: bool
) -> None:
    stranger = tiny_cache.cache / ".DS_Store"
    stranger.write_text("mine")
    if damaged:
        flip_a_bit(tiny_cache.cache / OBJECT)
    assert main(["cache", "verify", str(tiny_cache.cache)]) == 4
    said = capsys.readouterr()
    assert ".DS_Store does not belong to the cache" in said.out
    assert "Delete the file that the list says does not belong to it: that is enough." in said.err
    assert ("cache repair" in said.err) == damaged
    stranger.unlink()
    assert main(["cache", "verify", str(tiny_cache.cache)]) == (4 if damaged else 0)


def test_command_names_what_it_leaves_alone(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = tiny_cache.cache / "logits" / "notes.txt"
    stranger.write_text("mine")
    flip_a_bit(tiny_cache.cache / OBJECT)
    command = ["cache", "repair", str(tiny_cache.cache), "--experiment", str(tiny_cache.experiment)]
    assert main([*command, "--json"]) == 4
    result = json.loads(capsys.readouterr().out)
    assert result["recomputed"] == [{"generation": 1, "unit": 3}]
    assert result["findings_after"] == 1
    assert stranger.read_text() == "mine"
    stranger.unlink()
    assert main(command) == 0
