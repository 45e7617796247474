"""The command, its forecast, and both stages of a tiny experiment that reads a frame store."""

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.frames.packed import PackedStore
from reskd.common.dataset.frames.store import open_store
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import TinyCache, cut_off, make_tiny_cache, training_videos

Capture = pytest.CaptureFixture[str]
LOSSLESS = ("--fps", "native", "--format", "png", "--short-side", "0", "--decoder", "pyav")


def run(capsys: Capture, *arguments: object) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    result: dict[str, Any] = json.loads(captured.out)
    return result


def fail(capsys: Capture, exit_code: int, *arguments: object) -> str:
    """The message of a command that must fail."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def with_frames(experiment: Path, frames: str, extra: str = "") -> Path:
    """The same experiment, reading a store."""
    path = experiment.with_name(f"with-{frames}.yaml")
    path.write_text(
        f"extends: [{experiment.name}]\nname: tiny\ndata: {{frames: {frames}}}\n{extra}"
    )
    return path


@pytest.fixture
def stored(tiny_experiment: Path, capsys: Capture) -> Path:
    """A tiny experiment that reads a lossless store of its videos."""
    index, out = (tiny_experiment.parent / name for name in ("index.jsonl", "frames.h5"))
    assert run(capsys, "dataset", "extract-frames", index, "--out", out, *LOSSLESS)["videos"] == 12
    return with_frames(tiny_experiment, "frames.h5")


def test_plan_predicts_what_the_command_then_makes(tiny_experiment: Path, capsys: Capture) -> None:
    home = tiny_experiment.parent
    before = sorted(home.rglob("*"))
    options = ("--fps", 3, "--split", "train", "--decoder", "pyav")
    frames = ("--out", home / "frames.h5")
    command = ("dataset", "extract-frames", home / "index.jsonl", *frames, *options)
    plan = run(capsys, *command, "--plan")
    assert sorted(home.rglob("*")) == before
    made = run(capsys, *command)
    # 16 frames at 12 per second: 0, 4, 8 and 12.
    assert plan["kept_frames"] == made["kept_frames"] == 36
    assert (plan["videos"], plan["files"]) == (made["videos"], made["files"]) == (9, 1)
    assert plan["bytes"] == pytest.approx(made["bytes"], rel=0.3)
    assert (plan["probed_videos"], plan["unreadable"]) == (9, [])
    assert run(capsys, *command) == {**made, "videos_written": 0}
    assert main([*map(str, command), "--plan"]) == 0
    assert "Nothing was written" in capsys.readouterr().out


def test_wrong_use_is_told_with_its_exit_code(tiny_experiment: Path, capsys: Capture) -> None:
    index, out = (tiny_experiment.parent / name for name in ("index.jsonl", "frames.h5"))
    command = ("dataset", "extract-frames", index, "--out", out)
    assert "neither a number above 0 nor `native`" in fail(capsys, 2, *command, "--fps", "fast")
    assert "neither a number" in fail(capsys, 2, *command, "--fps", "-1")
    assert "png is lossless" in fail(capsys, 2, *command, "--format", "png", "--quality", 80)
    assert "has no split 'x'" in fail(capsys, 3, *command, "--split", "x")
    assert "must end in .h5" in fail(capsys, 3, *command[:-1], out.with_suffix(".zip"))
    cut_off(training_videos(tiny_experiment)[2])
    message = fail(capsys, 5, *command)
    assert "1 of 12 videos cannot be read" in message
    assert "--allow-unreadable" in message
    assert len(run(capsys, *command, "--allow-unreadable")["failures"]) == 1


def test_cache_from_a_lossless_store_holds_the_same_outputs_under_another_identity(
    stored: Path, tiny_cache_template: Path, tmp_path: Path
) -> None:
    cache = make_tiny_cache(stored, tmp_path / "cache").cache
    ours, from_video = (read_manifest(folder) for folder in (cache, tiny_cache_template))
    assert set(ours.identity["decoder"]) == {"images"}
    theirs = {name: from_video.identity[name] for name in ("decoder", "videos")}
    assert {**ours.identity, **theirs} == from_video.identity
    assert ours.fingerprint != from_video.fingerprint
    readers = [CacheReader(folder) for folder in (cache, tiny_cache_template)]
    views, videos = np.divmod(np.arange(27), 9)
    for array in ours.arrays:
        one, other = (
            reader.gather(array.name, views, videos, reader.empty(array.name, 27))
            for reader in readers
        )
        np.testing.assert_array_equal(one, other)


def test_students_need_no_videos_and_with_stored_frames_no_store(
    stored: Path, capsys: Capture
) -> None:
    home = stored.parent
    cache = make_tiny_cache(stored, home / "cache").cache
    rmtree(home / "videos")
    run(capsys, "train-student", stored, "--no-distill", "--run", home / "labels")
    result = run(capsys, "evaluate", home / "labels")
    assert (result["videos"], result["failed"]) == (3, 0)

    (home / "frames.h5").unlink()
    run(capsys, "train-student", stored, "--cache", cache, "--run", home / "student")
    message = fail(capsys, 3, "cache-teacher", stored, "--cache", home / "again")
    assert "there is no frame store" in message
    assert not (home / "again").exists()


def test_replay_needs_the_frames_that_the_cache_was_made_from(
    tiny_experiment: Path, capsys: Capture
) -> None:
    home = tiny_experiment.parent
    no_frames = "targets: {frames: null}\n"
    index = home / "index.jsonl"
    run(capsys, "dataset", "extract-frames", index, "--out", home / "frames.h5", *LOSSLESS)
    jpg = (*LOSSLESS[:2], "--decoder", "pyav")
    run(capsys, "dataset", "extract-frames", index, "--out", home / "jpg.h5", *jpg)
    lossless = with_frames(tiny_experiment, "frames.h5", no_frames)
    cache = make_tiny_cache(lossless, home / "cache").cache
    run(capsys, "train-student", lossless, "--cache", cache, "--run", home / "student")
    for other in ("jpg.h5", "null"):
        experiment = with_frames(tiny_experiment, other, no_frames)
        command = ("train-student", experiment, "--cache", cache, "--run", home / "other")
        assert "First difference: decoder." in fail(capsys, 4, *command)


def test_damaged_image_becomes_a_failed_row_with_its_reason(stored: Path, tmp_path: Path) -> None:
    store = PackedStore(stored.parent / "frames.h5")
    entry = read_index(load_experiment(str(stored)).data.index).split("train")[3]
    (shard,) = store.shards
    rows = shard.rows(shard.ids.index(entry.id))
    with shard.path.open("r+b") as file:
        for row in rows:  # whichever frames the views want
            file.seek(shard.images_start + int(row["offset"]) + 50)
            file.write(b"damage")
    cache = make_tiny_cache(stored, tmp_path / "cache", max_bad=0.5).cache
    ((video, reason),) = CacheReader(cache).failed.items()
    assert video == 3
    assert "is damaged (crc32c)" in reason


def test_video_missing_in_the_store_ends_the_command(
    tiny_cache: TinyCache, capsys: Capture
) -> None:
    home = tiny_cache.experiment.parent
    out = home / "val.h5"
    command = ("dataset", "extract-frames", home / "index.jsonl", "--out", out)
    run(capsys, *command, "--split", "val", *LOSSLESS)
    assert len(list(open_store(out).all_facts())) == 3
    experiment = with_frames(tiny_cache.experiment, "val.h5")
    message = fail(capsys, 3, "cache-teacher", experiment, "--cache", home / "other")
    assert "was made without video" in message
    assert "and 8 more" in message
