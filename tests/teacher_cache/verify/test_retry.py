"""Videos that a cache calls unreadable are asked again when that is asked for, and only then."""

import json
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.teacher_cache.read.reader import CacheReader
from tests.teacher_cache.handling import tree_of
from tests.tiny_experiment import cut_off, make_tiny_cache, training_videos


def repair(experiment: Path, cache: Path, *options: str) -> int:
    command = ["cache", "repair", str(cache), "--experiment", str(experiment), "--json"]
    return main([*command, "--max-bad", "1", "--threads", "1", *options])


@pytest.mark.parametrize("more", [(), ("--views", "6")], ids=["one run", "extended"])
def test_video_that_is_readable_after_all_gets_its_rows_and_others_keep_theirs(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    folder, bad = tiny_experiment.parent, training_videos(tiny_experiment)[4]
    content = bad.read_bytes()
    for name in ("whole", "cache"):
        if name == "cache":
            cut_off(bad)
        make_tiny_cache(tiny_experiment, folder / name, max_bad=0.2)
        if more:
            extend = ["cache", "extend", str(folder / name), "--experiment", str(tiny_experiment)]
            assert main([*extend, *more, "--max-bad", "1", "--threads", "1"]) == 0
        bad.write_bytes(content)
    cache = folder / "cache"
    marked = tree_of(cache)
    assert repair(tiny_experiment, cache) == 0  # not asked for: what is marked stays marked
    assert tree_of(cache) == marked
    capsys.readouterr()
    assert repair(tiny_experiment, cache, "--retry-failed") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [Path(name).name for name in facts["readable_again"]] == [bad.name]
    assert CacheReader(cache).failed == {}
    assert tree_of(cache) == tree_of(folder / "whole")


def test_video_that_is_still_damaged_stays_marked_and_nothing_is_computed(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off(training_videos(tiny_experiment)[4])
    cache = make_tiny_cache(tiny_experiment, tiny_experiment.parent / "cache", max_bad=0.2).cache
    marked = tree_of(cache)
    assert repair(tiny_experiment, cache, "--retry-failed") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["recomputed"] == []
    assert "still unreadable" in said.err
    assert tree_of(cache) == marked


@pytest.mark.parametrize("allowed", [3, 4])
def test_so_many_unreadable_videos_in_a_row_stop_stage_one(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str], allowed: int
) -> None:
    for video in training_videos(tiny_experiment)[2:5]:
        cut_off(video)
    command = ["cache-teacher", str(tiny_experiment), "--threads", "1", "--max-bad", "1"]
    command += ["--cache", str(tiny_experiment.parent / "cache")]
    code = main([*command, "--max-bad-in-row", str(allowed)])
    assert code == (5 if allowed == 3 else 0)
    assert ("3 videos in a row" in capsys.readouterr().err) == (allowed == 3)
