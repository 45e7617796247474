"""A cache grows by videos, in units of their own; what was there stays, byte for byte."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from reskd.common.dataset.index import VideoIndex, read_index, write_index
from reskd.common.errors import CacheError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.fill import extend as extend_module
from reskd.teacher_cache.fill import locks, writer
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.format.commits import TAKEN_OUT
from reskd.teacher_cache.format.layout import commit_key, object_key
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.format.videos import read_videos, videos_key
from reskd.teacher_cache.info import cache_info
from reskd.teacher_cache.read.contents import matched_videos
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.recompute import Draw, verify_semantic
from reskd.teacher_cache.verify.repair import repair_cache
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.handling import OPTIONS, Rows, extend, reseal, tree_of
from tests.tiny_experiment import CPU, TinyCache

UNIT_VIDEOS = 4
FEWER = 6
"""Videos of the split when the cache is made, of 9: units of 4 and 2, then one of 3."""
REWRITTEN = ("zarr.json", "cache.json")


@dataclass(frozen=True)
class Grown:
    """A cache of some of the videos, and the index of all of them."""

    cache: TinyCache
    index_file: Path
    index: VideoIndex

    @property
    def folder(self) -> Path:
        return self.cache.cache

    def list_videos(self, kept: Callable[[int], bool]) -> None:
        """Write the index with some training videos, by number, and all others."""
        training = self.index.split("train")
        others = [video for video in self.index.videos if video.split != "train"]
        chosen = [video for number, video in enumerate(training) if kept(number)]
        write_index(self.index_file, replace(self.index, videos=(*chosen, *others)))


def make_cache(experiment_file: Path, folder: Path, *overrides: str) -> None:
    """A cache of units of UNIT_VIDEOS videos."""
    experiment = load_experiment(str(experiment_file), overrides)
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    plan = replace(plan, layout=replace(plan.layout, unit_videos=UNIT_VIDEOS))
    run_cache_teacher(experiment, plan, folder, OPTIONS)


@pytest.fixture
def grown(tiny_experiment: Path) -> Grown:
    index_file = tiny_experiment.parent / "index.jsonl"
    cache = TinyCache(tiny_experiment, tiny_experiment.parent / "cache")
    made = Grown(cache, index_file, read_index(index_file))
    made.list_videos(lambda number: number < FEWER)
    make_cache(tiny_experiment, cache.cache)
    made.list_videos(lambda number: True)
    return made


def rows(folder: Path, name: str, views: int = 3) -> np.ndarray:
    reader = CacheReader(folder)
    videos = reader.usable_videos
    return np.stack(
        [
            reader.gather(name, [view] * len(videos), videos, reader.empty(name, len(videos)))
            for view in range(views)
        ]
    )


def test_added_videos_begin_at_a_new_unit_and_nothing_written_changes(grown: Grown) -> None:
    before = tree_of(grown.folder)
    extend(grown.cache, videos=True)
    after = tree_of(grown.folder)
    kept = {name for name in before if not name.endswith(REWRITTEN)}
    assert all(after[name] == before[name] for name in kept)
    layout = read_manifest(grown.folder).layout
    assert (layout.num_videos, layout.extent, layout.num_units) == (9, 11, 3)
    assert layout.absent == ((6, 8),)
    assert CacheReader(grown.folder).usable_videos == [0, 1, 2, 3, 4, 5, 8, 9, 10]
    assert verify_cache(grown.folder, "bytes").findings == ()
    facts = cache_info(grown.folder)
    assert (facts["videos"], facts["usable_videos"], facts["complete"]) == (9, 9, True)
    extend(grown.cache, videos=True)  # nothing left to do
    assert tree_of(grown.folder) == after


def test_rows_of_added_videos_are_those_of_a_cache_made_at_once(grown: Grown) -> None:
    extend(grown.cache, videos=True)
    whole = grown.folder.with_name("whole")
    make_cache(grown.cache.experiment, whole)
    for name in ("views", "frames"):
        np.testing.assert_array_equal(rows(grown.folder, name), rows(whole, name))
    for name in ("logits", "features"):  # the teacher sees other clips beside each
        np.testing.assert_allclose(
            rows(grown.folder, name).astype(float),
            rows(whole, name).astype(float),
            rtol=2e-3,
            atol=2e-3,
        )


def test_zarr_python_sees_the_same_rows_and_zeros_where_no_video_is(grown: Grown) -> None:
    import zarr

    extend(grown.cache, videos=True)
    opened = zarr.open_group(grown.folder, mode="r")["frames"]
    assert isinstance(opened, zarr.Array)
    assert opened.shape[:2] == (3, 11)
    stored = np.asarray(opened[:])
    np.testing.assert_array_equal(
        stored[:, [*range(6), *range(8, 11)]], rows(grown.folder, "frames")
    )
    assert not stored[:, 6:8].any()
    reader = CacheReader(grown.folder)
    with pytest.raises(CacheError, match="no video has this number"):
        reader.gather("frames", [0], [7], reader.empty("frames", 1))


def test_views_are_added_to_all_videos_after_some_were_added(grown: Grown) -> None:
    extend(grown.cache, videos=True, views=6)
    assert rows(grown.folder, "views", 6).shape[:2] == (6, 9)
    assert verify_cache(grown.folder, "bytes").findings == ()
    draw = Draw(rows=54, seed=0)
    experiment = load_experiment(str(grown.cache.experiment))
    assert verify_semantic(experiment, grown.folder, draw, device=CPU, threads=1).findings == ()


def test_a_stopped_addition_is_not_seen_and_the_same_command_goes_on(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(grown.folder, "logits")
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(writer, "write_commit", full)
        with pytest.raises(OSError, match="No space left"):
            extend(grown.cache, videos=True)
    np.testing.assert_array_equal(rows(grown.folder, "logits"), before)
    assert CacheReader(grown.folder).manifest.layout.num_videos == FEWER
    unfinished = verify_cache(grown.folder, "structure").findings
    assert unfinished[0].path == commit_key(2, 2)
    extend(grown.cache, videos=True)
    stopped = tree_of(grown.folder)
    assert verify_cache(grown.folder, "bytes").findings == ()

    whole = Grown(
        TinyCache(grown.cache.experiment, grown.folder.with_name("undisturbed")),
        grown.index_file,
        grown.index,
    )
    whole.list_videos(lambda number: number < FEWER)
    make_cache(whole.cache.experiment, whole.folder)
    whole.list_videos(lambda number: True)
    extend(whole.cache, videos=True)
    assert tree_of(whole.folder) == stopped


def test_a_unit_of_other_added_videos_is_no_part_of_this_cache(grown: Grown) -> None:
    other = TinyCache(grown.cache.experiment, grown.folder.with_name("other"))
    grown.list_videos(lambda number: number < FEWER)
    make_cache(other.experiment, other.cache)
    grown.list_videos(lambda number: number < FEWER + 2)
    extend(other, videos=True)
    grown.list_videos(lambda number: number < FEWER or number > FEWER)
    extend(grown.cache, videos=True)
    record = commit_key(2, 2)
    assert read_manifest(grown.folder).fingerprint == read_manifest(other.cache).fingerprint
    (grown.folder / record).write_bytes((other.cache / record).read_bytes())
    findings = verify_cache(grown.folder, "structure").findings
    assert [one.path for one in findings if "another cache" in one.problem] == [record]
    with pytest.raises(CacheError, match="belongs to another cache"):
        CacheReader(grown.folder)


def test_videos_taken_out_before_the_teacher_came_are_marked_and_do_not_count_as_bad(
    grown: Grown,
) -> None:
    (grown.folder / commit_key(1, 1)).unlink()
    grown.list_videos(lambda number: number < FEWER - 1)
    make_cache(grown.cache.experiment, grown.folder)  # --max-bad 0
    assert CacheReader(grown.folder).failed == {5: TAKEN_OUT}
    assert verify_cache(grown.folder, "bytes").findings == ()


def test_a_video_left_out_while_views_were_added_is_new_when_it_is_listed_again(
    grown: Grown, capsys: pytest.CaptureFixture[str]
) -> None:
    grown.list_videos(lambda number: number < FEWER - 1)
    extend(grown.cache, videos=True)
    assert "has no rows" not in capsys.readouterr().err
    extend(grown.cache, views=6)
    assert "has no rows of 1 video that the index does not list" in capsys.readouterr().err
    grown.list_videos(lambda number: number < FEWER)
    index, manifest = read_index(grown.index_file), read_manifest(grown.folder)
    found = matched_videos(grown.folder, manifest, index)
    assert [video.id for video in found.new] == [index.split("train")[FEWER - 1].id]
    extend(grown.cache, videos=True)
    found = matched_videos(grown.folder, read_manifest(grown.folder), index)
    assert (sorted(found.entries), found.new) == ([0, 1, 2, 3, 4, 8], ())
    assert set(found.entries) <= set(CacheReader(grown.folder).usable_videos)
    assert verify_cache(grown.folder, "bytes").findings == ()


def test_a_cache_is_read_once_no_other_process_writes_it(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def other_came_first(folder: Path) -> Iterator[None]:
        monkeypatch.undo()
        grown.list_videos(lambda number: number < FEWER + 1)
        extend(grown.cache, videos=True)
        grown.list_videos(lambda _: True)
        with locks.sole_writer(folder):
            yield

    monkeypatch.setattr(extend_module, "sole_writer", other_came_first)
    extend(grown.cache, videos=True)
    assert verify_cache(grown.folder, "bytes").findings == ()
    assert read_manifest(grown.folder).layout.absent == ((6, 8), (9, 12))


def test_a_damaged_unit_of_added_videos_is_computed_anew_to_the_byte(grown: Grown) -> None:
    extend(grown.cache, videos=True)
    whole = tree_of(grown.folder)
    logits = read_manifest(grown.folder).array("logits")
    (grown.folder / object_key(logits, 0, 2)).write_bytes(b"damaged")
    experiment = load_experiment(str(grown.cache.experiment))
    facts, _ = repair_cache(experiment, grown.folder, OPTIONS)
    assert facts["recomputed"] == [{"generation": 2, "unit": 2}]
    assert tree_of(grown.folder) == whole


@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_wrong_rows_of_added_videos_are_found_and_computed_anew(grown: Grown, mode: str) -> None:
    experiment = load_experiment(str(grown.cache.experiment), (f"teacher.mode={mode}",))
    if mode == "batch":
        shutil.rmtree(grown.folder)
        grown.list_videos(lambda number: number < FEWER)
        make_cache(grown.cache.experiment, grown.folder, f"teacher.mode={mode}")
        grown.list_videos(lambda number: True)
    extend(grown.cache, videos=True, overrides=(f"teacher.mode={mode}",))
    draw, files = Draw(rows=100, seed=0), tree_of(grown.folder).keys()
    assert verify_semantic(experiment, grown.folder, draw, device=CPU, threads=1).findings == ()

    def spoil(rows: Rows, _: CacheReader) -> None:
        rows["logits"][0] += 1

    reseal(grown.folder, 9, spoil, run=2)
    facts, _ = repair_cache(experiment, grown.folder, OPTIONS, level="semantic", draw=draw)
    assert facts["recomputed"] == [{"generation": 2, "unit": 2}]
    assert facts["ok"]
    assert tree_of(grown.folder).keys() == files


def test_a_damaged_table_of_videos_is_found_and_refused(grown: Grown) -> None:
    table = grown.folder / videos_key(1)
    table.write_bytes(table.read_bytes().replace(b"climb", b"climp"))
    findings = verify_cache(grown.folder, "structure").findings
    assert [one.path for one in findings] == [videos_key(1)]
    with pytest.raises(CacheError, match=r"videos\.1\.jsonl was changed after it was written"):
        extend(grown.cache, videos=True)
    table.unlink()
    assert [one.problem for one in verify_cache(grown.folder, "bytes").findings] == ["is missing"]


def test_what_was_begun_is_finished_before_videos_are_added(
    grown: Grown, capsys: pytest.CaptureFixture[str]
) -> None:
    (grown.folder / commit_key(1, 0)).unlink()
    with pytest.raises(StoppedShortError, match="run `reskd cache-teacher` again"):
        extend(grown.cache, videos=True)
    make_cache(grown.cache.experiment, grown.folder)
    assert "finished first" in capsys.readouterr().err
    with pytest.raises(CacheError, match="lacks 3 videos of the index"):
        make_cache(grown.cache.experiment, grown.folder)
    extend(grown.cache, videos=True)
    make_cache(grown.cache.experiment, grown.folder)
    assert len(CacheReader(grown.folder).usable_videos) == 9


def test_labels_of_added_videos_are_kept_by_the_classes_of_the_cache(grown: Grown) -> None:
    """Though the index lists the classes in another order by then."""
    turned = [
        replace(video, labels=tuple(2 - label for label in video.labels))
        for video in grown.index.videos
    ]
    classes = grown.index.classes[::-1]
    write_index(grown.index_file, replace(grown.index, classes=classes, videos=tuple(turned)))
    extend(grown.cache, videos=True)
    manifest = read_manifest(grown.folder)
    assert manifest.classes == grown.index.classes
    cached = read_videos(grown.folder, manifest.videos)
    expected = {video.id: video.labels for video in grown.index.videos}
    assert all(video.labels == expected[video.id] for video in cached.values())
    assert matched_videos(grown.folder, manifest, read_index(grown.index_file)).relabelled == ()
    more = replace(grown.index, classes=(*grown.index.classes, "zoo"))
    write_index(grown.index_file, more)
    assert matched_videos(grown.folder, manifest, more).relabelled == ()


def test_videos_of_a_class_that_the_teacher_does_not_know_are_added_without_label(
    grown: Grown,
) -> None:
    more = replace(grown.index, classes=(*grown.index.classes, "zoo"))
    write_index(grown.index_file, more)
    extend(grown.cache, videos=True)
    manifest = read_manifest(grown.folder)
    cached = read_videos(grown.folder, manifest.videos)
    assert [video.labels for row, video in cached.items() if row > 7] == [(), (), ()]
    assert matched_videos(grown.folder, manifest, more).relabelled == ()
