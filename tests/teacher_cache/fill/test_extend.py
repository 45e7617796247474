"""A cache grows by views and targets; what was there stays, byte for byte."""

import errno
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.errors import CacheError, ExperimentError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.storage import records
from reskd.common.storage.atomic_write import write_partial
from reskd.teacher_cache.fill import writer
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.extend import extend_cache
from reskd.teacher_cache.fill.writer import write_metadata
from reskd.teacher_cache.format import commits
from reskd.teacher_cache.format.layout import commit_key, object_key
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.handling import OPTIONS, extend, tree_of
from tests.tiny_experiment import (
    TinyCache,
    make_tiny_cache,
    make_tiny_experiment,
    save_random_teacher,
    training_videos,
)
from tests.video_files import write_video


def rows(folder: Path, name: str, views: int) -> np.ndarray:
    """All rows of some views, (views, N, *row_shape)."""
    reader = CacheReader(folder)
    videos = reader.usable_videos
    return np.stack(
        [
            reader.gather(name, [view] * len(videos), videos, reader.empty(name, len(videos)))
            for view in range(views)
        ]
    )


def test_added_views_are_those_of_a_cache_written_with_all_of_them(tiny_cache: TinyCache) -> None:
    before = tree_of(tiny_cache.cache)
    extend(tiny_cache, views=6)
    after = tree_of(tiny_cache.cache)
    kept = {name for name in before if not name.endswith(("zarr.json", "cache.json"))}
    assert all(after[name] == before[name] for name in kept)
    assert verify_cache(tiny_cache.cache, "bytes").findings == ()

    whole = tiny_cache.cache.with_name("whole")
    text = tiny_cache.experiment.read_text().replace("count: 3", "count: 6")
    tiny_cache.experiment.write_text(text)
    make_tiny_cache(tiny_cache.experiment, whole)
    for name in ("views", "frames", "logits", "features", "feature_residual"):
        tolerance = 2e-3 if name in ("logits", "features", "feature_residual") else 0
        np.testing.assert_allclose(
            rows(tiny_cache.cache, name, 6).astype(float),
            rows(whole, name, 6).astype(float),
            rtol=tolerance,
            atol=tolerance,  # the teacher sees other clips beside each
        )


def test_views_may_end_inside_a_block_and_then_no_more_can_follow(tiny_cache: TinyCache) -> None:
    extend(tiny_cache, views=7)
    assert CacheReader(tiny_cache.cache).manifest.layout.num_views == 7
    assert verify_cache(tiny_cache.cache, "bytes").findings == ()
    import zarr

    opened = zarr.open_group(tiny_cache.cache, mode="r")["views"]
    assert isinstance(opened, zarr.Array)
    np.testing.assert_array_equal(np.asarray(opened[:]), rows(tiny_cache.cache, "views", 7))
    with pytest.raises(ExperimentError, match="end inside a block of 3"):
        extend(tiny_cache, views=9)
    with pytest.raises(ExperimentError, match="not taken away"):
        extend(tiny_cache, views=5)


def test_added_targets_belong_to_the_stored_views_and_leave_the_rest(tiny_cache: TinyCache) -> None:
    before = tree_of(tiny_cache.cache)
    overrides = ("targets.logit_map.top_k=2",)
    extend(tiny_cache, targets=("logit_map",), overrides=overrides)
    after = tree_of(tiny_cache.cache)
    assert {name: after[name] for name in before if name != "cache.json"} == {
        name: content for name, content in before.items() if name != "cache.json"
    }
    assert verify_cache(tiny_cache.cache, "bytes").findings == ()
    # The class scores of a TSN are the mean of those at every location.
    reader = CacheReader(tiny_cache.cache)
    ids = rows(tiny_cache.cache, "logit_map_ids", 3)
    assert ids.max() < 3
    assert reader.manifest.array("logit_map_rest").attributes == {"temperature": 2.0}
    extend(tiny_cache, targets=("logit_map",), overrides=overrides)  # nothing left to do
    assert tree_of(tiny_cache.cache) == after


def test_cache_without_frames_gets_the_frames_it_would_have_had(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    whole = tree_of(tiny_cache.cache)
    lean = tmp_path / "lean"
    text = tiny_cache.experiment.read_text()
    tiny_cache.experiment.write_text(text + "targets: {frames: null}\n")
    make_tiny_cache(tiny_cache.experiment, lean)
    assert not (lean / "frames").exists()
    extend(TinyCache(tiny_cache.experiment, lean), targets=("frames", "logits"))
    objects = {name: data for name, data in tree_of(lean).items() if name.startswith("frames/")}
    # The unit size followed from the arrays of the first run, which had no frames.
    assert objects == {name: data for name, data in whole.items() if name.startswith("frames/")}
    assert verify_cache(lean, "bytes").findings == ()


def test_views_then_targets_then_reading_all_of_it(tiny_cache: TinyCache) -> None:
    extend(tiny_cache, views=6, targets=("logit_map",))
    manifest = CacheReader(tiny_cache.cache).manifest
    assert [(one.views, len(one.arrays)) for one in manifest.generations] == [
        ((0, 3), 5),
        ((3, 6), 5),
        ((0, 6), 1),
    ]
    assert [(table.name, table.row_shape) for table in manifest.tables] == [
        ("row_checksums", (5,)),
        ("row_checksums.g3", (1,)),
    ]
    assert verify_cache(tiny_cache.cache, "bytes").findings == ()
    scores = rows(tiny_cache.cache, "logit_map", 6).astype(float)
    logits = rows(tiny_cache.cache, "logits", 6).astype(float)
    np.testing.assert_allclose(scores.mean(axis=(2, 3, 4)), logits, rtol=5e-3, atol=1e-3)


def test_extension_that_was_stopped_is_invisible_and_goes_on(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = tiny_cache.cache.with_name("undisturbed")
    make_tiny_cache(tiny_cache.experiment, undisturbed)
    extend(TinyCache(tiny_cache.experiment, undisturbed), views=6)

    def full(path: Path, pieces: list[memoryview]) -> Path:
        if "features/c/1/4/" in path.as_posix():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write_partial(path, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_partial", full)
        with pytest.raises(OSError, match="No space left"):
            extend(tiny_cache, views=6)
    reader = CacheReader(tiny_cache.cache)
    assert reader.manifest.layout.num_views == 3
    reader.require_complete()
    with pytest.raises(CacheError, match="the cache has 3 views"):
        reader.gather("logits", [3], [0], reader.empty("logits", 1))
    findings = verify_cache(tiny_cache.cache, "bytes").findings
    assert {finding.problem for finding in findings} == {"the unit was never finished"}
    extend(tiny_cache, views=6)
    assert tree_of(tiny_cache.cache) == tree_of(undisturbed)


def test_target_in_another_encoding_is_refused(tiny_cache: TinyCache) -> None:
    before = tree_of(tiny_cache.cache)
    with pytest.raises(CacheError, match=r"holds features as .*float16.* asks for .*int8"):
        extend(tiny_cache, targets=("features",), overrides=("targets.features.dtype=int8",))
    with pytest.raises(ExperimentError, match="'maps' is no target"):
        extend(tiny_cache, targets=("maps",))
    assert tree_of(tiny_cache.cache) == before


def test_unfinished_cache_and_another_teacher_are_refused(tiny_cache: TinyCache) -> None:
    commit = tiny_cache.cache / commit_key(1, 2)
    content = commit.read_bytes()
    commit.unlink()
    with pytest.raises(StoppedShortError, match="finish it first"):
        extend(tiny_cache, views=6)
    commit.write_bytes(content)
    save_random_teacher(load_experiment(str(tiny_cache.experiment)), seed=2)
    with pytest.raises(CacheError, match=r"First difference: teacher\.weights_sha256"):
        extend(tiny_cache, views=6)


def test_command_takes_the_experiment_recorded_beside_the_cache(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_tiny_cache(tiny_experiment, tiny_experiment.parent / "mine").cache
    assert main(["cache", "extend", str(cache), "--views", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["views"], result["units_written"]) == (6, result["units"])
    assert main(["cache", "extend", str(cache)]) == 2
    cache.with_name("mine.runs.jsonl").unlink()
    assert main(["cache", "extend", str(cache), "--views", "6"]) == 3
    assert "name it with --experiment" in capsys.readouterr().err


def test_added_targets_read_each_record_a_few_times_however_many_units_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make_tiny_experiment(tmp_path / "data", videos_per_class=6)
    experiment = load_experiment(str(file))
    index = read_index(experiment.data.index)
    large = plan_cache(experiment, index, memory_bytes=10**9)
    one_video = large.memory_bytes // large.layout.unit_videos
    plan = plan_cache(experiment, index, memory_bytes=one_video * 3 // 2)
    assert plan.layout.num_units == plan.layout.num_videos == 15
    folder = tmp_path / "cache"
    run_cache_teacher(experiment, plan, folder, OPTIONS)
    read: list[Path] = []

    def noted(path: Path) -> dict[str, object]:
        read.append(path)
        return records.read_record(path)

    monkeypatch.setattr(commits, "read_record", noted)
    extend_cache(experiment, folder, views=None, targets=("logit_map",), options=OPTIONS)
    times = Counter(read)
    # Which units are missing, who failed before, the stored views, the summary.
    assert max(times.values()) <= 6
    with CacheReader(folder) as reader:
        assert len(reader.usable_videos) == 15
        assert "logit_map" in {array.name for array in reader.manifest.arrays}


def test_video_of_which_stored_views_can_be_none_gets_no_targets(tiny_cache: TinyCache) -> None:
    """It was replaced by one of another size since its views were stored."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 48, 48, 3), np.uint8)
    write_video(training_videos(tiny_cache.experiment)[4], noise)
    with pytest.raises(StoppedShortError, match=r"cannot be cut again: it was cut from frames of"):
        extend(tiny_cache, targets=("logit_map",))
    reader = CacheReader(tiny_cache.cache)
    assert "logit_map" not in [array.name for array in reader.manifest.arrays]


def test_added_rows_are_bound_to_their_places_too(tiny_cache: TinyCache) -> None:
    extend(tiny_cache, views=6, targets=("logit_map",))
    logit_map = CacheReader(tiny_cache.cache).manifest.array("logit_map")
    one, other = (tiny_cache.cache / object_key(logit_map, block, 4) for block in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(CacheError, match="is whole and does not belong there"):
        rows(tiny_cache.cache, "logit_map", 6)


def test_cache_begun_without_row_checksums_goes_on_and_grows_as_it_began(
    tiny_cache: TinyCache,
) -> None:
    bound = CacheReader(tiny_cache.cache).manifest
    for name in [table.name for table in bound.tables]:
        rmtree(tiny_cache.cache / name)
    rmtree(tiny_cache.cache / "commits")
    write_metadata(tiny_cache.cache, replace(bound, row_checksums=False))
    make_tiny_cache(tiny_cache.experiment, tiny_cache.cache)  # finishes it
    extend(tiny_cache, views=6, targets=("logit_map",))
    assert not CacheReader(tiny_cache.cache).manifest.tables
    assert not list(tiny_cache.cache.glob("row_checksums*"))
    assert verify_cache(tiny_cache.cache, "bytes").findings == ()
    assert rows(tiny_cache.cache, "logit_map", 6).any()
