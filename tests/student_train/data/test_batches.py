"""Frames, labels and targets belong to the same video."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
import zarr
from torch import Tensor

from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.errors import StoppedShortError
from reskd.common.experiment import Experiment
from reskd.common.experiment.load import load_experiment
from reskd.common.video.preprocess import shrink
from reskd.student_train.data import order as orders
from reskd.student_train.data.batches import Batch, Batches, FrameSource, StoredFrames
from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.decoded_frames import DecodedFrames
from reskd.student_train.data.labels import Labels
from reskd.student_train.data.order import epoch_order
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import ALONE, TinyCache, cut_off

SIZE, VIEWS, SEED = 24, 3, 5
TARGETS = ("features", "feature_residual", "logits")


@dataclass(frozen=True)
class Opened:
    """A tiny cache and the experiment it belongs to."""

    experiment: Experiment
    index: VideoIndex
    reader: CacheReader
    arrays: Any
    """The cache as zarr-python sees it."""

    @property
    def cache(self) -> TrainingCache:
        return TrainingCache(self.reader, self.index.numbered("train"))

    def decoded(
        self,
        *,
        replay: bool = True,
        num_views: int | None = None,
        keep_clips: bool = False,
        workers: int = 0,
        max_bad: float = 0.0,
    ) -> DecodedFrames:
        return DecodedFrames(
            self.experiment,
            self.index,
            self.index.numbered("train"),
            size=SIZE,
            replay=self.cache if replay else None,
            num_views=VIEWS if replay else num_views,
            keep_clips=keep_clips,
            workers=workers,
            memory_bytes=0,
            pinned=False,
            max_bad=max_bad,
        )

    def batches(
        self,
        source: FrameSource,
        *,
        accumulation: int = 1,
        order: Literal["shuffled", "blocks"] = "shuffled",
    ) -> Batches:
        return Batches(
            source,
            Labels(self.index.numbered("train"), num_classes=3, kind="one_of", seed=0),
            targets=TARGETS,
            cache=self.cache,
            num_views=VIEWS,
            batch_size=4,
            accumulation=accumulation,
            order=order,
            seed=SEED,
            processes=ALONE,
        )

    def rows(self, name: str, view: int, videos: list[int]) -> Tensor:
        """Rows of an array read without any code of ours."""
        return torch.stack([torch.as_tensor(self.arrays[name][view, video]) for video in videos])


@pytest.fixture
def opened(tiny_cache: TinyCache) -> Opened:
    experiment = load_experiment(str(tiny_cache.experiment))
    return Opened(
        experiment,
        read_index(experiment.data.index),
        CacheReader(tiny_cache.cache),
        zarr.open_group(tiny_cache.cache, mode="r"),
    )


def _copies(batches: Iterable[Batch]) -> list[Batch]:
    """All batches at once; each is only good until the next one is asked for."""
    return [
        Batch(
            batch.frames_BT3HW.clone(),
            batch.labels,
            batch.videos,
            {name: target.clone() for name, target in batch.targets.items()},
            batch.clips_BT3HW,
            batch.share,
            batch.ends_step,
        )
        for batch in batches
    ]


def _assert_equal(got: list[Batch], expected: list[Batch]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.frames_BT3HW, other.frames_BT3HW)
        assert torch.equal(one.labels, other.labels)
        assert one.targets.keys() == other.targets.keys()
        for name in one.targets:
            assert torch.equal(one.targets[name], other.targets[name])


def test_stored_frames_in_every_view_equal_replayed_ones_bit_for_bit(opened: Opened) -> None:
    stored, replayed = opened.batches(StoredFrames(opened.cache)), opened.batches(opened.decoded())
    for epoch in range(VIEWS + 1):
        batches = _copies(stored.epoch(epoch))
        assert [tuple(batch.frames_BT3HW.shape[1:]) for batch in batches] == [(3, 3, 24, 24)] * 2
        _assert_equal(_copies(replayed.epoch(epoch)), batches)


@pytest.mark.parametrize("source", ["stored", "replayed"])
def test_batch_of_any_epoch_joins_what_belongs_to_its_videos(opened: Opened, source: str) -> None:
    frames: dict[str, Callable[[], FrameSource]] = {
        "stored": lambda: StoredFrames(opened.cache),
        "replayed": opened.decoded,
    }
    batches = opened.batches(frames[source]())
    for epoch in (1, VIEWS + 2):
        order, start = epoch_order(range(9), seed=SEED, epoch=epoch), 0
        for batch in batches.epoch(epoch):
            videos = order[start : start + len(batch.labels)]
            # Rows 0-2 are climb, 3-5 dive, 6-8 jump.
            assert batch.labels.tolist() == [video // 3 for video in videos]
            frames_of_zarr = opened.rows("frames", epoch % VIEWS, videos)
            assert torch.equal(batch.frames_BT3HW, frames_of_zarr)
            assert tuple(batch.targets) == TARGETS
            for name, target in batch.targets.items():
                assert torch.equal(target, opened.rows(name, epoch % VIEWS, videos)), name
            start += len(videos)
        assert start == batches.clips_per_epoch == 9


def test_fresh_views_of_first_epochs_are_those_a_cache_would_store(opened: Opened) -> None:
    source = opened.decoded(replay=False)
    for epoch in range(VIEWS):
        ((videos, frames, _),) = source.read([[4, 2]], epoch)
        assert videos == [4, 2]
        assert frames is not None
        assert torch.equal(frames, opened.rows("frames", epoch, [4, 2]))


def test_fresh_views_past_the_stored_ones_are_new(opened: Opened) -> None:
    ((_, frames, _),) = opened.decoded(replay=False).read([[4, 2]], VIEWS)
    assert frames is not None
    for view in range(VIEWS):
        assert not torch.equal(frames, opened.rows("frames", view, [4, 2]))


def test_decoded_frames_while_reading_leave_the_generator_of_dropout_alone(opened: Opened) -> None:
    before = torch.random.get_rng_state()
    assert len(list(opened.decoded().read([[0, 1], [2]], 0))) == 2
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unreadable_video_is_left_out_and_named_once(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = opened.index.split("train")[4]
    cut_off(opened.index.path_of(entry))
    source = opened.decoded(max_bad=0.2)
    for epoch in range(2):
        read = list(source.read([[3, 4, 5], [4], [6, 7]], epoch))
        assert [videos for videos, _, _ in read] == [[3, 5], [], [6, 7]]
        for videos, frames, _ in read[::2]:
            assert frames is not None
            assert torch.equal(frames, opened.rows("frames", epoch, videos))
    said = capsys.readouterr().err
    assert said.count(entry.id) == 1
    assert "left out" in said


def test_batch_with_unreadable_video_keeps_labels_and_targets_of_the_others(opened: Opened) -> None:
    cut_off(opened.index.path_of(opened.index.split("train")[4]))
    videos = [video for video in epoch_order(range(9), seed=SEED, epoch=0) if video != 4]
    batches = _copies(opened.batches(opened.decoded(max_bad=0.2)).epoch(0))
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == [video // 3 for video in videos]
    features = torch.cat([batch.targets["features"] for batch in batches])
    assert torch.equal(features, opened.rows("features", 0, videos))


def test_unreadable_videos_above_max_bad_stop_with_exit_code_5(opened: Opened) -> None:
    cut_off(opened.index.path_of(opened.index.split("train")[4]))
    source = opened.decoded(max_bad=0.1)  # 1 of 9 is more
    list(source.read([[3, 4, 5]], 0))
    assert source.unreadable.has_news
    with pytest.raises(StoppedShortError, match=r"1 of 9 videos are unreadable.*--max-bad") as stop:
        source.unreadable.agree(ALONE)
    assert stop.value.exit_code == 5


def test_stored_frames_need_no_video(opened: Opened) -> None:
    for entry in opened.index.videos:
        opened.index.path_of(entry).unlink()
    batches = list(opened.batches(StoredFrames(opened.cache)).epoch(0))
    assert sum(len(batch.labels) for batch in batches) == 9


def test_drawn_views_of_a_number_start_again_as_stored_ones_do(opened: Opened) -> None:
    source = opened.decoded(replay=False, num_views=VIEWS)
    for epoch in (0, VIEWS, 2 * VIEWS + 1):
        ((_, frames, _),) = source.read([[4, 2]], epoch)
        assert frames is not None
        assert torch.equal(frames, opened.rows("frames", epoch % VIEWS, [4, 2]))


@pytest.mark.parametrize("replay", [True, False])
def test_kept_clips_shrink_to_the_frames_beside_them(opened: Opened, replay: bool) -> None:
    source = opened.decoded(replay=replay, num_views=VIEWS, keep_clips=True)
    ((_, frames, clips),) = source.read([[4, 2]], 1)
    assert frames is not None
    assert clips is not None
    assert clips.shape == (2, 3, 3, 48, 48)
    assert torch.equal(shrink(clips, SIZE), frames)


def test_batches_of_stored_rows_left_early_can_be_read_again(opened: Opened) -> None:
    batches = opened.batches(StoredFrames(opened.cache))
    whole = _copies(batches.epoch(1))
    epoch = batches.epoch(1)
    next(epoch)
    epoch.close()
    _assert_equal(_copies(batches.epoch(1)), whole)


def test_blocks_are_read_in_their_order_and_gone_on_with(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "WINDOW_BLOCKS", 4)
    monkeypatch.setattr(orders, "BLOCK_ROWS", 2)  # 9 videos are 5 blocks
    batches = opened.batches(StoredFrames(opened.cache), order="blocks")
    for epoch in range(2):
        whole = _copies(batches.epoch(epoch))
        read = [video for batch in whole for video in batch.videos]
        assert read == orders.block_order(range(9), seed=SEED, epoch=epoch, batch_size=4)
        assert read != epoch_order(range(9), seed=SEED, epoch=epoch)
        _assert_equal(_copies(batches.epoch(epoch, first_step=1)), whole[1:])
        parts = opened.batches(StoredFrames(opened.cache), order="blocks", accumulation=2)
        assert [video for batch in parts.epoch(epoch) for video in batch.videos] == read


def test_last_batch_that_takes_a_lone_clip_finds_room_for_it(opened: Opened) -> None:
    sizes = [len(batch.labels) for batch in opened.batches(StoredFrames(opened.cache)).epoch(0)]
    assert sizes == [4, 5]  # batches of 4 of 9 videos


def test_parts_of_a_step_keep_their_share_and_end_when_a_video_is_unreadable(
    opened: Opened,
) -> None:
    """Nine videos are two steps of 4 and 5; cut in 4 parts, one of them loses its only clip."""
    cut_off(opened.index.path_of(opened.index.split("train")[4]))
    batches = opened.batches(opened.decoded(max_bad=0.2), accumulation=4)
    read = _copies(batches.epoch(0))
    assert [batch.ends_step for batch in read] == [False] * 3 + [True] + [False] * 3 + [True]
    assert [batch.share for batch in read] == [0.25] * 4 + [0.2] * 3 + [0.4]
    assert sorted(len(batch) for batch in read) == [0, 1, 1, 1, 1, 1, 1, 2]
    assert batches.steps_per_epoch == 2
