"""Test clips are cut once; what is measured never depends on what is kept of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.dataset.quarantine import BadVideo, quarantine_file, write_quarantine
from reskd.common.errors import DataError, PreemptedError
from reskd.common.signals import StopRequest
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.evaluate import kept_clips
from reskd.student_train.evaluate.clip_filling import source_of, store_of
from reskd.student_train.evaluate.clip_keeping import ClipKeeping
from reskd.student_train.evaluate.measure import Measured, evaluate_runs
from reskd.student_train.evaluate.videos import Videos
from reskd.teacher_cache.clip_store import ClipStore
from reskd.teacher_cache.fill.locks import sole_writer
from reskd.teacher_cache.verify.verify import verify_cache
from tests.student_train.random_checkpoint import random_checkpoint
from tests.student_train.two_processes import in_one_group
from tests.teacher_cache.handling import flip_a_bit
from tests.tiny_experiment import ALONE, cut_off, training_videos

VIDEOS = 9
ARRAYS = ("frames", "source")
USUAL = ClipKeeping()
CUT = Videos.cut


class Home(NamedTuple):
    """A run, and the index of its experiment."""

    run: Path
    index_file: Path

    @property
    def store(self) -> Path:
        """Where its test clips are kept."""
        return self.index_file.with_name("index.jsonl.clips") / "train-24px"

    def measured(self, keeping: ClipKeeping | None = USUAL, **protocol: Any) -> Measured:
        """Measure the run on the training split."""
        [measured] = evaluate_runs(
            [self.run],
            index_path=None,
            split="train",
            processes=ALONE,
            protocol={"batch_size": 4, **protocol},
            keeping=keeping,
        )
        return measured

    def scores(self, keeping: ClipKeeping | None = USUAL, **protocol: Any) -> NDArray[np.float32]:
        """What it predicts there, (9, 3)."""
        return self.measured(keeping, **protocol).predictions.scores_NK


@pytest.fixture
def home(tiny_experiment: Path, tmp_path: Path) -> Home:
    run = random_checkpoint(tmp_path / "run", tiny_experiment, decided=True)
    return Home(run, tiny_experiment.parent / "index.jsonl")


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the videos that clips are cut from; a test may clear it."""
    numbers: list[int] = []

    def counted(videos: Videos, number: int) -> Tensor | str:
        numbers.append(number)
        return CUT(videos, number)

    monkeypatch.setattr(Videos, "cut", counted)
    return numbers


def test_figures_are_equal_to_the_last_digit_and_only_the_first_measurement_cuts(
    home: Home, cuts: list[int]
) -> None:
    cut_off(home.index_file.parent / read_index(home.index_file).root / "climb" / "1.mp4")
    expected = home.measured(None)
    assert len(expected.predictions.failures) == 1
    assert not home.store.exists()
    for count in (VIDEOS + 1, 1, 1):  # the unreadable one is always tried
        cuts.clear()
        found = home.measured()
        np.testing.assert_array_equal(found.predictions.scores_NK, expected.predictions.scores_NK)
        for key in expected.figures.keys() - {"clips_per_second"}:
            assert found.figures[key] == expected.figures[key], key
        assert len(cuts) == count
    assert verify_cache(home.store, "bytes").findings == ()


def test_store_is_a_cache_that_anyone_can_read(home: Home) -> None:
    videos = home.measured().videos
    frames, sources = (zarr.open_array(home.store / name, mode="r") for name in ARRAYS)
    assert frames.shape == (1, VIDEOS, 3, 3, 24, 24)
    for number in range(VIDEOS):
        cut = videos.cut(number)
        assert isinstance(cut, Tensor)
        np.testing.assert_array_equal(frames[:, number], cut.numpy())
        np.testing.assert_array_equal(sources[0, number], source_of(videos, number))


def test_clips_of_training_serve_other_runs_and_evaluate(
    tiny_experiment: Path, tmp_path: Path, cuts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--no-distill", "--device", "cpu", "-o", "student.training.epochs=2"]
    for run in ("one", "two"):
        train = ["train-student", str(tiny_experiment), "--run", str(tmp_path / run), *options]
        assert main(train) == 0
    assert sorted(cuts) == [0, 1, 2]
    told = capsys.readouterr().err
    store = tiny_experiment.parent / "index.jsonl.clips" / "val-24px"
    assert told.count("test clips are kept in") == 1
    assert f"{store}, " in told
    evaluate = ["evaluate", str(tmp_path / "one"), "--device", "cpu", "--json"]
    assert main(evaluate) == 0
    kept = json.loads(capsys.readouterr().out)
    assert len(cuts) == 3
    assert main([*evaluate, "--clips-store-gb", "0"]) == 0
    assert len(cuts) == 6
    cut = json.loads(capsys.readouterr().out)
    assert {**kept, "clips_per_second": 0} == {**cut, "clips_per_second": 0}


def test_several_views_of_a_video_are_not_kept(home: Home, tmp_path: Path) -> None:
    home.measured(clips=2)
    assert not home.store.exists()
    with pytest.raises(DataError, match="keeps one view of every video, and this protocol has 6"):
        home.measured(ClipKeeping(folder=tmp_path / "named"), clips=2, crops=3)


Damage = Callable[[Path], object]


def _object_of(store: Path) -> Path:
    return store / "frames" / "c" / "0" / "3" / "0" / "0" / "0" / "0"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param(lambda s: flip_a_bit(_object_of(s)), "checksum", id="row"),
        pytest.param(lambda s: cut_off(_object_of(s)), "bytes long instead of", id="cut"),
        pytest.param(lambda s: _object_of(s).unlink(), "cannot be read", id="gone"),
        pytest.param(
            lambda s: flip_a_bit(s / "commits" / "000003.g1.json"), "record of unit 3", id="record"
        ),
        pytest.param(lambda s: (s / "commits" / "000003.g1.json").unlink(), "", id="no record"),
    ],
)
def test_damaged_unit_is_told_cut_and_kept_anew(
    home: Home, cuts: list[int], capsys: pytest.CaptureFixture[str], damage: Damage, told: str
) -> None:
    expected = home.scores()
    damage(home.store)
    cuts.clear()
    capsys.readouterr()
    np.testing.assert_array_equal(home.scores(), expected)
    assert cuts == [3]
    shown = capsys.readouterr().err
    assert told in shown
    assert ("is kept anew" in shown) == bool(told)
    home.scores()
    cuts.clear()
    np.testing.assert_array_equal(home.scores(), expected)
    assert cuts == []
    assert verify_cache(home.store, "bytes").findings == ()


def test_damaged_cache_json_is_told_once_and_nothing_is_read_or_removed(
    home: Home, cuts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = home.scores()
    flip_a_bit(home.store / "cache.json")
    cuts.clear()
    for _ in range(2):
        np.testing.assert_array_equal(home.scores(), expected)
    assert len(cuts) == 2 * VIDEOS
    assert capsys.readouterr().err.count("name another folder with --clips-store") == 1
    assert _object_of(home.store).is_file()


def test_replaced_video_is_cut_anew(
    home: Home, cuts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = home.scores()
    index = read_index(home.index_file)
    files = [index.path_of(entry) for entry in index.split("train")]
    files[0].write_bytes(files[-1].read_bytes())
    cuts.clear()
    after = home.scores()
    assert cuts == [0]
    assert "a video has changed since its clip was kept" in capsys.readouterr().err
    np.testing.assert_array_equal(after[1:], before[1:])
    np.testing.assert_allclose(after[0], before[-1], rtol=1e-5)
    np.testing.assert_array_equal(home.scores(), home.scores(None))


def test_video_that_is_repaired_counts_again_and_one_in_quarantine_does_not(
    home: Home, cuts: list[int]
) -> None:
    index = read_index(home.index_file)
    entry = index.split("train")[4]
    file = index.path_of(entry)
    whole = file.read_bytes()
    cut_off(file)
    assert list(home.measured().predictions.failures) == [entry.id]
    file.write_bytes(whole)
    assert not home.measured().predictions.failures
    assert not home.measured().predictions.failures
    cuts.clear()
    assert not home.measured().predictions.failures
    assert cuts == []
    bad = BadVideo(id=entry.id, path=entry.path, verdict="hang", message="for ever")
    write_quarantine(quarantine_file(home.index_file), [bad])
    assert home.measured().predictions.failures == home.measured(None).predictions.failures
    assert list(home.measured().predictions.failures) == [entry.id]


def _rename_a_video(home: Home) -> None:
    index = read_index(home.index_file)
    first = index.split("train")[0]
    others = (video for video in index.videos if video != first)
    write_index(home.index_file, replace(index, videos=(replace(first, id="new"), *others)))


def _turn_labels_round(home: Home) -> None:
    index = read_index(home.index_file)
    videos = [replace(video, labels=((video.labels[0] + 1) % 3,)) for video in index.videos]
    write_index(home.index_file, replace(index, videos=tuple(videos)))


@pytest.mark.parametrize(
    ("change", "protocol", "told"),
    [
        pytest.param(_rename_a_video, {}, "entries: the cache has", id="index"),
        pytest.param(None, {"short_side": 56}, "short_side: the cache has 48", id="protocol"),
        pytest.param(None, {"crop_fraction": 0.5}, "test_view.crop: the cache has 42", id="crop"),
        pytest.param(_turn_labels_round, {}, None, id="labels"),
    ],
)
def test_store_of_other_clips_is_never_read_and_says_what_differs(
    home: Home,
    cuts: list[int],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Home], None] | None,
    protocol: dict[str, Any],
    told: str | None,
) -> None:
    home.measured()
    if change is not None:
        change(home)
    expected = home.scores(None, **protocol)
    capsys.readouterr()
    cuts.clear()
    for _ in range(2):
        np.testing.assert_array_equal(home.scores(**protocol), expected)
    shown = capsys.readouterr().err
    assert len(cuts) == (0 if told is None else 2 * VIDEOS)
    assert shown.count("holds other clips. First difference: ") == (told is not None)
    assert (told or "") in shown
    named = ClipKeeping(folder=home.store.parent)
    if told is not None:
        with pytest.raises(DataError, match=r"holds other clips\. First difference: "):
            home.measured(named, **protocol)


@pytest.mark.parametrize("command", ["evaluate", "train-student"])
def test_clips_that_take_more_than_is_allowed_are_refused_or_cut(
    home: Home,
    tiny_experiment: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    arguments = {
        "evaluate": ["evaluate", str(home.run)],
        "train-student": [
            *("train-student", str(tiny_experiment), "--no-distill"),
            *("--run", str(tmp_path / "trained")),
        ],
    }[command]
    small = [*arguments, "--device", "cpu", "--clips-store-gb", "1e-6"]
    folder = tmp_path / "named"
    assert main([*small, "--clips-store", str(folder)]) == 3
    told = capsys.readouterr().err
    assert f"{folder} would take 1" in told
    assert "of val-24px, more than the 1e-06 GB of --clips-store-gb" in told
    assert "epoch 0" not in told
    assert not folder.exists()
    assert main(small) == 0
    told = capsys.readouterr().err
    assert told.count("Clips that are not kept are cut from the videos.") == 1
    assert not home.store.parent.exists()
    assert main([*arguments, "--clips-store-gb", "0", "--clips-store", str(folder)]) == 2


def test_bound_counts_all_stores_of_the_folder(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.measured()
    one = sum(path.stat().st_size for path in home.store.rglob("*") if path.is_file())
    home.store.rename(home.store.with_name("val-99px"))
    home.measured(ClipKeeping(most_gb=1.5 * one / 1e9))
    assert "more than the" in capsys.readouterr().err
    assert not home.store.exists()
    home.measured(ClipKeeping(most_gb=2 * one / 1e9))
    assert home.store.exists()


@pytest.mark.parametrize("begun", [False, True])
def test_second_process_cuts_and_does_not_wait(
    home: Home, cuts: list[int], capsys: pytest.CaptureFixture[str], begun: bool
) -> None:
    expected = home.scores()
    for record in (home.store / "commits").iterdir():
        if not begun or record.name > "000004":
            record.unlink()
    cuts.clear()
    with sole_writer(home.store):
        np.testing.assert_array_equal(home.scores(), expected)
    assert sorted(cuts) == list(range(4 if begun else 0, VIDEOS))
    assert f"another process is filling {home.store}" in capsys.readouterr().err


def test_place_that_cannot_be_written_is_told(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.store.parent.write_text("a file")
    np.testing.assert_array_equal(home.scores(), home.scores(None))
    assert "test clips cannot be kept: " in capsys.readouterr().err


def test_full_disk_costs_the_unit_and_no_figure(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reskd.teacher_cache.fill.writer.write_unit", full)
    found = home.scores()
    monkeypatch.undo()
    assert "test clips cannot be kept: [Errno 28] No space left" in capsys.readouterr().err
    np.testing.assert_array_equal(found, home.scores())


def test_interrupted_filling_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    videos = home.measured(None).videos
    stop = StopRequest()
    counted = Videos.cut

    def stopping(videos: Videos, number: int) -> Tensor | str:
        if number == 5:
            stop.note(15)
        return counted(videos, number)

    cuts.clear()
    monkeypatch.setattr(Videos, "cut", stopping)
    monkeypatch.setattr("reskd.student_train.evaluate.clip_filling.decode_threads", lambda: 1)
    with pytest.raises(PreemptedError), kept_clips.clip_source(videos, USUAL, ALONE, stop):
        pytest.fail("the clips are not asked for")
    kept = VIDEOS - len(store_of(videos, USUAL).missing_units())
    assert 0 < kept <= 5
    monkeypatch.setattr(Videos, "cut", counted)
    cuts.clear()
    home.measured()
    assert sorted(cuts) == list(range(kept, VIDEOS))


def _measured_by(home: Home, processes: ProcessGroup) -> tuple[NDArray[np.float32], list[int]]:
    """Scores, and the units that a process was given to fill."""
    units: list[int] = []
    fill = ClipStore.fill

    def noted(store: ClipStore, numbers: Any, clips: Any) -> None:
        units.extend(numbers)
        fill(store, numbers, clips)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipStore, "fill", noted)
        [measured] = evaluate_runs(
            [home.run],
            index_path=None,
            split="train",
            processes=processes,
            protocol={"batch_size": 4},
            keeping=USUAL,
        )
    return measured.predictions.scores_NK, units


def test_two_processes_share_the_filling(home: Home) -> None:
    expected = home.scores(None)
    found = in_one_group(partial(_measured_by, home))
    for scores, _ in found:
        np.testing.assert_array_equal(scores, expected)
    assert [units for _, units in found] == [list(range(0, VIDEOS, 2)), list(range(1, VIDEOS, 2))]
    assert verify_cache(home.store, "bytes").findings == ()


def test_data_set_may_move_with_its_clips(
    home: Home, tmp_path: Path, cuts: list[int], tiny_experiment: Path
) -> None:
    home.measured()
    moved = shutil.copytree(tiny_experiment.parent, tmp_path / "moved")
    for file in training_videos(tiny_experiment):
        file.unlink()
    cuts.clear()
    [measured] = evaluate_runs(
        [home.run],
        index_path=moved / "index.jsonl",
        split="train",
        processes=ALONE,
        keeping=USUAL,
    )
    assert cuts == []
    assert not measured.predictions.failures
