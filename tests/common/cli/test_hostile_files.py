"""Files of others through the commands: an error with its exit code, in bounded words and memory.

No input may end with 1, which is a defect of the program. What each parser refuses is tested where
it lies; here it is that every command reads through one of them.
"""

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reskd.common.cli.main import main
from reskd.common.experiment.load import load_experiment
from reskd.common.parsing.shown import MOST_CHARACTERS
from reskd.common.storage.records import write_record
from reskd.teacher_cache.run_log import append_run
from tests.common.parsing.test_yaml_text import LAUGHS
from tests.tiny_experiment import TinyCache

MOST_BYTES = 100_000_000
"""Of Python's own objects while a command refuses a file."""
DEEP = b"[" * 500
WHOLE = {
    "empty": b"",
    "deep": DEEP,
    "deep mappings": b'{"a":' * 2000,
    "nan": b'{"format": NaN}',
    "long integer": b"9" * 20_000,
    "half a character": b'{"format": "\\ud800"}',
    "nul": b"a\0b",
    "bytes": bytes(range(256)) * 8,
    "one long line": b"x" * 1_000_000,
    "another value": b"[[], 1, null]",
    "laughs": LAUGHS.encode(),
}
VALUES = ("null", "true", "[]", "{}", '"\\u0000"', "-1", "1e308", "9223372036854775807", '"x"')


class Place(NamedTuple):
    """A file, and a command that reads it."""

    file: Callable[[TinyCache], Path]
    command: Callable[[TinyCache], list[str]]
    codes: set[int]
    """How it may end."""


def _index(cache: TinyCache) -> Path:
    return load_experiment(str(cache.experiment)).data.index


def _commit(cache: TinyCache) -> Path:
    return cache.cache / "commits" / "000000.g1.json"


def _teacher(cache: TinyCache) -> Path:
    return load_experiment(str(cache.experiment)).teacher.checkpoint


def _list(cache: TinyCache) -> Path:
    return cache.cache.parent / "list"


def _importing(name: str, *options: str) -> Callable[[TinyCache], list[str]]:
    return lambda cache: [
        *("dataset", "import", name, f"train={_list(cache)}", "--videos", str(cache.cache.parent)),
        *("--out", str(cache.cache.parent / "new.jsonl"), *options),
    ]


def _plan(cache: TinyCache) -> list[str]:
    return ["cache-teacher", str(cache.experiment), "--plan"]


def _info(cache: TinyCache) -> list[str]:
    return ["cache", "info", str(cache.cache)]


def _verify(cache: TinyCache) -> list[str]:
    return ["cache", "verify", str(cache.cache)]


def _predict(cache: TinyCache) -> list[str]:
    return ["predict", str(_teacher(cache)), str(next(_index(cache).parent.rglob("*.mp4")))]


PLACES = {
    "experiment": Place(lambda cache: cache.experiment, _plan, {3}),
    "index": Place(_index, _plan, {3}),
    "quarantine": Place(
        lambda cache: _index(cache).with_name("index.jsonl.quarantine.json"), _plan, {3}
    ),
    "cache.json": Place(lambda cache: cache.cache / "cache.json", _info, {4}),
    "cache.json verified": Place(lambda cache: cache.cache / "cache.json", _verify, {4}),
    "commit": Place(_commit, _info, {4}),
    "commit verified": Place(_commit, _verify, {4}),
    "table of videos": Place(lambda cache: cache.cache / "videos.1.jsonl", _info, {4}),
    "log of runs": Place(lambda cache: cache.cache.with_name("cache.runs.jsonl"), _info, {0}),
    "config.json": Place(lambda cache: _teacher(cache) / "config.json", _predict, {3}),
    "labels.json": Place(lambda cache: _teacher(cache) / "labels.json", _predict, {3}),
    "kinetics": Place(_list, _importing("kinetics"), {2, 3}),
    "csv": Place(_list, _importing("csv"), {2, 3}),
    "sthv2": Place(_list, _importing("sthv2"), {2, 3}),
    "activitynet": Place(_list, _importing("activitynet"), {2, 3}),
    "mmaction": Place(_list, _importing("mmaction"), {2, 3}),
}


def ends(command: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and errors of a command, whose memory and words are bounded."""
    tracemalloc.start()
    try:
        code = main(command)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    errors = capsys.readouterr().err
    assert peak < MOST_BYTES
    assert len(errors) < MOST_CHARACTERS + 1000
    return code, errors


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_file_that_is_something_else_ends_with_its_exit_code(
    place: Place, content: bytes, tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    place.file(tiny_cache).write_bytes(content)
    code, errors = ends(place.command(tiny_cache), capsys)
    assert code in place.codes, errors


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("clip.num_clips=1000000000", "clip.num_clips: .*less than or equal to 10000"),
        ("views.count=99999999999", "views.count: .*less than or equal to"),
        ("views.size=100000", "views.size: .*less than or equal to 8192"),
        ("student.training.workers=100000", "workers: .*less than or equal to 1024"),
        ("evaluation.clips=1000000000", "evaluation.clips: .*less than or equal to"),
        ("data.index=~nosuchuser/index.jsonl", "person's home that is not known here"),
        ("name=" + "[" * 200, "more than 64 deep"),
        ("student.training.optimizer.lr=.nan", "finite number"),
        ("student.training.seed=" + "9" * 6000, "integer of more than 64 bits"),
        ('data.index="a\\0b"', "NUL"),
        ("name={" + "x: 1, " * 2 + "}", "appears twice"),
        ("name=" + "x" * 300_000, "300000 characters, more than"),
    ],
)
def test_override_beyond_a_bound_names_its_key(
    option: str, problem: str, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = ends(["config", "show", str(tiny_experiment), "-o", option], capsys)
    assert code == 3
    assert re.search(problem, errors), errors


def test_views_of_very_many_frames_are_refused(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-o", "clip.num_clips=10000", "-o", "clip.clip_len=10000"]
    code, errors = ends(["config", "show", str(tiny_experiment), *options], capsys)
    assert code == 3
    assert "views of 100000000 frames; at most 10000" in errors


def _lines_with(path: Path, number: int) -> list[tuple[str, bytes]]:
    """A file of JSON Lines with each field of a line replaced by each value, or left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    row: dict[str, Any] = json.loads(lines[number])
    made = []
    for key in row:
        for value in (*VALUES, None):
            kept = {name: json.dumps(row[name]) for name in row if name != key}
            changed = kept if value is None else {**kept, key: value}
            text = ", ".join(f'"{name}": {written}' for name, written in changed.items())
            content = [*lines[:number], f"{{{text}}}", *lines[number + 1 :]]
            made.append((f"{key}={value}", "\n".join(content).encode()))
    return made


@pytest.mark.parametrize("name", ["index", "table of videos", "log of runs"])
def test_row_with_a_strange_field_ends_with_its_exit_code(
    name: str, tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    place = PLACES[name]
    path = place.file(tiny_cache)
    if name == "log of runs":
        check = {"precision": "tf32", "device": "a GPU", "clips": 9, "differences": {"logits": 0.1}}
        facts = {"seconds": 1.5, "bytes": 9, "precision_check": check}
        append_run(tiny_cache.cache, load_experiment(str(tiny_cache.experiment)), facts)
    for number in (0, 1) if name != "log of runs" else (0,):
        for change, content in _lines_with(path, number):
            path.write_bytes(content)
            code = main(place.command(tiny_cache))
            assert code in place.codes | {0}, change  # where an index lies its seal does not say


def test_sealed_record_that_is_deep_is_refused(tmp_path: Path) -> None:
    value: Any = 1
    for _ in range(90):
        value = [value]
    write_record(tmp_path / "cache.json", {"format": value})
    assert main(["cache", "info", str(tmp_path)]) == 4
