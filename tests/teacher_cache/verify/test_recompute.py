"""The teacher run again: clean caches pass, wrong targets under right checksums are found."""

import json
import shutil
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.distill.teacher import BATCH_GROUP
from reskd.common.errors import CacheError
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.extend import extend_cache
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.commits import read_commit, write_commit
from reskd.teacher_cache.format.layout import object_key
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.recompute import (
    Draw,
    defect_rate_below,
    draw_rows,
    rows_needed,
    verify_semantic,
)
from reskd.teacher_cache.verify.report import Finding, Report
from tests.teacher_cache.handling import Rows, reseal, rows_of
from tests.tiny_experiment import CPU, TinyCache, make_tiny_experiment, save_random_teacher

OPTIONS = RunOptions(max_bad=0.0, threads=1, device=CPU, force=False)
EVERY_ROW = Draw(rows=10**6, seed=0)
VIEW, VIDEO, OTHER_VIDEO = 1, 4, 5
"""The row that tests make wrong, and where its wrong targets come from."""

TARGETS = {
    "float16": "{}",
    "int8 and top-k": "{features: {dtype: int8}, logit_map: {top_k: 2}}",
    "teacher grid and dense map": "{features: {grid: teacher}, logit_map: {}}",
    "batch": "{features: {dtype: int8}, logit_map: {}}",
}


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TinyCache]:
    """One experiment, cached with different targets and modes. Never write here."""
    folder = tmp_path_factory.mktemp("semantic")
    base = make_tiny_experiment(folder).read_text()
    made = {}
    for number, (name, targets) in enumerate(TARGETS.items()):
        text = f"{base}targets: {targets}\n"
        if name == "batch":
            text = text.replace("teacher:\n", "teacher:\n  mode: batch\n")
        path = folder / f"{number}.yaml"
        path.write_text(text)
        made[name] = _cached(path, folder / f"cache-{number}", one_unit=name == "batch")
    return made


def _cached(experiment_file: Path, folder: Path, *, one_unit: bool) -> TinyCache:
    experiment = load_experiment(str(experiment_file))
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    if one_unit:  # nine videos: a full group, and one that is filled up
        layout = replace(plan.layout, unit_videos=plan.layout.num_videos)
        plan = replace(plan, layout=layout)
    run_cache_teacher(experiment, plan, folder, OPTIONS)
    return TinyCache(experiment_file, folder)


@pytest.fixture
def copy_of(templates: dict[str, TinyCache], tmp_path: Path) -> Callable[[str], TinyCache]:
    """A cache of this test alone; the experiment is shared."""

    def copy(name: str) -> TinyCache:
        cache = shutil.copytree(templates[name].cache, tmp_path / "cache")
        return TinyCache(templates[name].experiment, cache)

    return copy


def check(tiny: TinyCache, draw: Draw = EVERY_ROW) -> Report:
    experiment = load_experiment(str(tiny.experiment))
    return verify_semantic(experiment, tiny.cache, draw, device=CPU, threads=1)


@pytest.mark.parametrize("name", TARGETS)
def test_clean_cache_has_no_findings_and_a_full_check_leaves_no_defect(
    templates: dict[str, TinyCache], name: str
) -> None:
    report = check(templates[name])
    assert report.findings == ()
    sample = report.semantic
    assert sample is not None
    assert (report.level, sample.rows, sample.rows_in_all) == ("semantic", 27, 27)
    assert sample.defect_rate_below == 0
    arrays = CacheReader(templates[name].cache).manifest.arrays
    assert list(sample.limits) == [
        array.name for array in arrays if array.name not in ("frames", "views")
    ]
    for array, of in sample.limits.items():
        live, precision, error, limit, largest = astuple(of)
        assert 0 <= live < 1e-4 < error, array
        assert precision == 0
        assert limit == 2 * max(live, error)
        assert largest <= limit


def test_group_that_was_filled_up_is_repeated_as_it_was(templates: dict[str, TinyCache]) -> None:
    commit = read_commit(templates["batch"].cache, 1, 0)
    assert commit is not None
    assert [len(group) for group in commit.groups] == [BATCH_GROUP, BATCH_GROUP]
    sample = check(templates["batch"]).semantic
    assert sample is not None
    assert sample.limits["logits"].live_difference != 0  # another order did change something


def test_row_whose_group_is_not_recorded_is_a_finding(
    copy_of: Callable[[str], TinyCache],
) -> None:
    tiny = copy_of("batch")
    commit = read_commit(tiny.cache, 1, 0)
    assert commit is not None
    first = commit.groups[0]
    write_commit(tiny.cache, replace(commit, groups=(first,)))
    report = check(tiny)
    (lost,) = set(range(9)) - set(first)
    assert {finding.video for finding in report.findings} == {lost}
    assert all("does not name its group" in finding.problem for finding in report.findings)


def _logits(rows: Rows, _: CacheReader) -> None:
    rows["logits"][VIEW] *= np.float16(1.01)


def _features(rows: Rows, reader: CacheReader) -> None:
    rows["features"][VIEW] = rows_of(reader, "features", OTHER_VIDEO)[VIEW]


def _scale(rows: Rows, _: CacheReader) -> None:
    rows["feature_scale"][VIEW, 3] *= np.float16(2)


def _coarse(rows: Rows, _: CacheReader) -> None:
    """Steps so large that their own rounding would excuse anything."""
    rows["features"][VIEW] = np.round(rows["features"][VIEW] / 127)
    rows["feature_scale"][VIEW] *= np.float16(127)


def _not_a_number(rows: Rows, _: CacheReader) -> None:
    rows["logits"][VIEW, 0] = np.nan


def _residual(rows: Rows, _: CacheReader) -> None:
    rows["feature_residual"][VIEW] *= np.float32(1.01)


def _frames(rows: Rows, _: CacheReader) -> None:
    pixel = rows["frames"][VIEW, 2, 1, 7]
    pixel[5] += 1 if pixel[5] < 255 else -1


def _map(rows: Rows, _: CacheReader) -> None:
    rows["logit_map"][VIEW, 0, 1, 1] *= np.float16(1.1)


def _ids(rows: Rows, _: CacheReader) -> None:
    rows["logit_map_ids"][VIEW] = (rows["logit_map_ids"][VIEW] + 1) % 3


def _rest(rows: Rows, _: CacheReader) -> None:
    rows["logit_map_rest"][VIEW] *= np.float16(1.01)


WRONG: dict[str, dict[int, tuple[str, Callable[[Rows, CacheReader], None]]]] = {
    "float16": {
        1: ("logits", _logits),
        3: ("features", _features),
        4: ("feature_residual", _residual),
        8: ("frames", _frames),
    },
    "int8 and top-k": {
        1: ("features", _features),
        3: ("feature_scale", _scale),
        4: ("logit_map_ids", _ids),
        6: ("features", _coarse),
        7: ("logits", _not_a_number),
        8: ("logit_map_rest", _rest),
    },
    "teacher grid and dense map": {1: ("features", _features), 3: ("logit_map", _map)},
    "batch": {0: ("logits", _logits), 8: ("frames", _frames)},
}
"""Per cache: video, array that is wrong in its row of view VIEW, and how it gets so."""


@pytest.mark.parametrize("name", WRONG)
def test_wrong_target_under_right_checksums_is_found_with_its_row(
    copy_of: Callable[[str], TinyCache], name: str
) -> None:
    tiny = copy_of(name)
    for video, (_, change) in WRONG[name].items():
        reseal(tiny.cache, video, change)
    report = check(tiny)
    layout = CacheReader(tiny.cache).manifest.layout
    found = {(finding.video, finding.array) for finding in report.findings}
    assert found >= {(video, array) for video, (array, _) in WRONG[name].items()}
    for finding in report.findings:
        assert finding.video in WRONG[name]
        assert (finding.view, finding.generation) == (VIEW, 1)
        assert finding.unit == layout.locate(finding.video)[0]
    assert report.semantic is not None
    assert report.semantic.defect_rate_below is None


def test_finding_states_difference_and_limit(copy_of: Callable[[str], TinyCache]) -> None:
    tiny = copy_of("float16")
    reseal(tiny.cache, VIDEO, _logits)
    (finding,) = check(tiny).findings
    assert finding == Finding(
        path="logits/c/0/4/0", problem=finding.problem, array="logits", unit=4, generation=1,
        view=VIEW, video=VIDEO,
    )  # fmt: skip
    words = finding.problem.removeprefix("differs from the live teacher by ").split(", limit ")
    assert float(words[0]) == pytest.approx(0.01, rel=0.1)
    assert float(words[1]) < 2e-3


def _shifted(rows: Rows, reader: CacheReader) -> None:
    columns = reader.manifest.array("views").attributes["columns"]
    left, width, frame = (columns.index(key) for key in ("left", "width", "frame_width"))
    row = rows["views"][VIEW]
    row[left] += 1 if row[left] + row[width] < row[frame] else -1


def test_view_shifted_by_one_pixel_is_found_and_named(copy_of: Callable[[str], TinyCache]) -> None:
    tiny = copy_of("float16")
    reseal(tiny.cache, VIDEO, _shifted)
    found = {finding.array: finding for finding in check(tiny).findings}
    assert {(finding.view, finding.video) for finding in found.values()} == {(VIEW, VIDEO)}
    assert "has left " in found["views"].problem
    assert "frames" in found  # what is stored is not what the stored view shows


def _frame_that_is_not_there(rows: Rows, _: CacheReader) -> None:
    rows["views"][VIEW, 2] = 99


def test_view_that_no_video_has_is_a_finding_and_no_crash(
    copy_of: Callable[[str], TinyCache],
) -> None:
    tiny = copy_of("float16")
    reseal(tiny.cache, VIDEO, _frame_that_is_not_there)
    report = check(tiny)
    problems = [finding.problem for finding in report.findings]
    assert problems[0].startswith("has frame_2 99")
    assert problems[1] == "cannot be cut again: it asks for frame 99 of 16 frames"
    assert report.semantic is not None
    assert (report.semantic.rows, report.semantic.drawn) == (26, 27)


def test_damaged_unit_is_left_out_and_all_others_are_compared(
    copy_of: Callable[[str], TinyCache],
) -> None:
    tiny = copy_of("float16")
    path = tiny.cache / "logits/c/0/4/0"
    path.write_bytes(path.read_bytes()[:-1])
    report = check(tiny)
    assert [finding.path for finding in report.findings] == ["logits/c/0/4/0"]
    assert report.semantic is not None
    assert report.semantic.rows_in_all == 24


def test_damaged_metadata_ends_before_any_row(copy_of: Callable[[str], TinyCache]) -> None:
    tiny = copy_of("float16")
    (tiny.cache / "logits/zarr.json").unlink()
    report = check(tiny)
    assert [finding.path for finding in report.findings] == ["logits/zarr.json"]
    assert report.semantic is None


def test_defect_in_an_extension_names_its_run(copy_of: Callable[[str], TinyCache]) -> None:
    tiny = copy_of("float16")
    extend_cache(
        load_experiment(str(tiny.experiment)),
        tiny.cache,
        views=4,
        targets=["logit_map"],
        options=OPTIONS,
    )
    reseal(tiny.cache, VIDEO, _map, run=3)
    report = check(tiny)
    (finding,) = report.findings
    assert (finding.generation, finding.array) == (3, "logit_map")
    assert (finding.view, finding.video) == (VIEW, VIDEO)
    assert report.semantic is not None
    assert report.semantic.rows == 36


def test_group_extended_by_views_is_repeated_run_by_run(
    copy_of: Callable[[str], TinyCache],
) -> None:
    tiny = copy_of("batch")
    experiment = load_experiment(str(tiny.experiment))
    extend_cache(experiment, tiny.cache, views=4, targets=(), options=OPTIONS)
    report = check(tiny)
    assert report.findings == ()
    assert report.semantic is not None
    assert report.semantic.rows == 36


def test_video_that_is_gone_is_a_finding_and_the_rest_is_compared(tiny_cache: TinyCache) -> None:
    index = read_index(load_experiment(str(tiny_cache.experiment)).data.index)
    index.path_of(index.split("train")[VIDEO]).unlink()
    report = check(tiny_cache)
    assert {(finding.video, finding.array) for finding in report.findings} == {(VIDEO, "views")}
    assert all("cannot be decoded any more: " in finding.problem for finding in report.findings)
    assert report.semantic is not None
    assert (report.semantic.rows, report.semantic.drawn) == (24, 27)


def test_video_gone_from_a_group_takes_the_rows_beside_it_along(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    text = tiny_experiment.read_text().replace("teacher:\n", "teacher:\n  mode: batch\n")
    tiny_experiment.write_text(text)
    tiny = _cached(tiny_experiment, tmp_path / "cache", one_unit=False)
    index = read_index(load_experiment(str(tiny_experiment)).data.index)
    index.path_of(index.split("train")[VIDEO]).unlink()
    report = check(tiny)
    beside = [finding.problem for finding in report.findings if finding.video != VIDEO]
    assert len(beside) == 7 * 3  # unit 0 is one group of eight
    assert all("video 4 of its group cannot be decoded any more" in text for text in beside)
    assert report.semantic is not None
    assert report.semantic.rows == 3


def test_another_teacher_is_refused_before_anything_is_read(tiny_cache: TinyCache) -> None:
    save_random_teacher(load_experiment(str(tiny_cache.experiment)), seed=2)
    with pytest.raises(CacheError, match=r"First difference: teacher\.weights_sha256"):
        check(tiny_cache)


def test_rows_needed_for_a_stated_confidence() -> None:
    assert rows_needed(0.95, 0.001) == 2995
    assert rows_needed(0.99, 0.01) == 459
    assert defect_rate_below(2995, 0.95) < 0.001 < defect_rate_below(2994, 0.95)


def test_same_seed_draws_the_same_rows_and_each_row_once() -> None:
    videos = [0, 2, 3, 7]
    drawn = draw_rows(5, videos, Draw(rows=9, seed=3))
    assert drawn == draw_rows(5, videos, Draw(rows=9, seed=3))
    assert drawn != draw_rows(5, videos, Draw(rows=9, seed=4))
    assert len(set(drawn)) == 9
    every = draw_rows(5, videos, Draw(seed=3))
    assert sorted(every) == [(view, video) for view in range(5) for video in videos]
    assert draw_rows(5, [], Draw(seed=3)) == []


def test_rows_are_drawn_uniformly_over_views_and_videos() -> None:
    counts: dict[tuple[int, int], int] = {}
    for seed in range(600):
        for row in draw_rows(2, [1, 5, 6], Draw(rows=2, seed=seed)):
            counts[row] = counts.get(row, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 150  # 200 expected, deviation 12


def test_command_prints_the_seed_and_repeats_the_draw(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cache", "verify", str(tiny_cache.cache), "--level", "semantic", "--device", "cpu"]
    by_name = ["--experiment", str(tiny_cache.experiment)]
    assert main([*command, *by_name, "--rows", "5", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["semantic"]
    assert (first["rows"], first["rows_in_all"], first["confidence"]) == (5, 27, 0.95)
    assert first["defect_rate_below"] == pytest.approx(1 - 0.05**0.2)
    again = ["--rows", "5", "--seed", str(first["seed"])]
    assert main([*command, *by_name, *again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["semantic"] == first
    assert main([*command, *by_name, *again]) == 0
    printed = capsys.readouterr().out
    assert f"(--rows 5 --seed {first['seed']} draws them again)" in printed
    assert "whole: no findings" in printed


def test_command_ends_with_4_on_a_finding_and_says_what_to_do(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    reseal(tiny_cache.cache, VIDEO, _logits)
    command = ["cache", "verify", str(tiny_cache.cache), "--experiment", str(tiny_cache.experiment)]
    assert main([*command, "--level", "semantic", "--device", "cpu"]) == 4
    shown = capsys.readouterr()
    key = object_key(CacheReader(tiny_cache.cache).manifest.array("logits"), 0, 4)
    assert f"unit 4: {key} (view 1, video 4) differs from the live teacher by" in shown.out
    assert "cache repair" in shown.err
    repair = ["cache", "repair", *command[2:], "--level", "semantic", "--seed", "3", "--json"]
    assert main(repair) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["recomputed"] == [{"generation": 1, "unit": 4}]
    assert main([*command, "--level", "semantic", "--device", "cpu"]) == 0


def test_options_of_the_draw_without_the_level_are_refused(tiny_cache: TinyCache) -> None:
    assert main(["cache", "verify", str(tiny_cache.cache), "--rows", "5"]) == 2
