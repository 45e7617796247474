"""Which videos in which order, in which batches, which view."""

from collections import defaultdict
from itertools import chain

import numpy as np
import pytest

from reskd.student_train.data.order import (
    BLOCK_ROWS,
    WINDOW_ROWS,
    block_order,
    cut_batches,
    cut_parts,
    epoch_order,
    first_uses,
    stored_view,
)


def test_epoch_order_of_any_videos_has_each_once() -> None:
    videos = [3, 5, 8, 13, 21, 34, 55]
    order = epoch_order(videos, seed=0, epoch=4)
    assert sorted(order) == videos
    assert order != videos


def test_epoch_order_of_equal_seed_and_epoch_is_equal() -> None:
    assert epoch_order(range(100), seed=7, epoch=2) == epoch_order(range(100), seed=7, epoch=2)


def test_epoch_order_of_other_seed_or_epoch_differs() -> None:
    orders = {tuple(epoch_order(range(50), seed=s, epoch=e)) for s in range(4) for e in range(4)}
    assert len(orders) == 16  # (0, 1) and (1, 0) too: the key is a tuple, not a sum


@pytest.mark.parametrize("count", range(1, 14))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_cut_batches_of_any_count_keeps_every_clip_in_order(count: int, batch_size: int) -> None:
    batches = cut_batches(range(count), batch_size)
    assert list(chain.from_iterable(batches)) == list(range(count))
    assert all(batches)


def test_cut_batches_with_lone_last_clip_joins_it_to_the_batch_before() -> None:
    assert cut_batches(range(9), 4) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]


def test_cut_batches_with_two_last_clips_leaves_them_alone() -> None:
    assert cut_batches(range(10), 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_stored_view_over_epochs_goes_round() -> None:
    assert [stored_view(epoch, 3) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_cut_parts_of_any_count_keeps_every_clip_in_order_and_none_empty() -> None:
    assert cut_parts([], 3) == [[]]
    for count in range(1, 9):
        for parts in range(1, 12):
            cut = cut_parts(range(count), parts)
            assert [clip for part in cut for clip in part] == list(range(count))
            assert len(cut) == min(count, parts)
            assert max(map(len, cut)) - min(map(len, cut)) <= 1


def _distinct(order: list[int], batch_size: int, class_rows: int) -> list[int]:
    """Classes in each batch, where so many neighbouring videos are of one class."""
    batches = cut_batches(order, batch_size)
    return [len({video // class_rows for video in batch}) for batch in batches]


@pytest.mark.parametrize(
    ("classes", "class_rows", "batch_size"),
    [
        pytest.param(400, 60, 64, id="a class is a block"),
        pytest.param(40, 500, 64, id="a class is many blocks"),
        pytest.param(2000, 10, 64, id="a block is many classes"),
        pytest.param(200, 100, 8, id="small batches"),
        pytest.param(200, 100, 256, id="large batches"),
        pytest.param(200, 100, 5000, id="larger than a window"),
        pytest.param(30, 100, 64, id="one window"),
    ],
)
def test_blocks_of_an_index_sorted_by_class_give_batches_of_as_many_classes_as_shuffling(
    classes: int, class_rows: int, batch_size: int
) -> None:
    videos = range(classes * class_rows)
    shuffled = np.array(_distinct(epoch_order(videos, seed=1, epoch=0), batch_size, class_rows))
    order = block_order(videos, seed=1, epoch=0, batch_size=batch_size)
    blocks = np.array(_distinct(order, batch_size, class_rows))
    assert blocks.mean() >= 0.9 * shuffled.mean()
    if len(blocks) > 4:  # nor is any part of the epoch worse, its beginning and end included
        for part in np.array_split(blocks[:-1], 5):
            assert part.mean() >= 0.9 * shuffled[:-1].mean()
        assert blocks[:-1].min() >= 0.8 * shuffled[:-1].min()


@pytest.mark.parametrize("batch_size", [1, 8, 64, 100, 256, 5000])
def test_block_order_has_each_video_once_and_each_block_within_two_windows(batch_size: int) -> None:
    videos = list(range(7, 30_000, 3))
    order = block_order(videos, seed=3, epoch=1, batch_size=batch_size)
    assert sorted(order) == videos
    assert order == block_order(videos, seed=3, epoch=1, batch_size=batch_size)
    assert order != block_order(videos, seed=3, epoch=2, batch_size=batch_size)
    assert order != block_order(videos, seed=4, epoch=1, batch_size=batch_size)
    rows = min(BLOCK_ROWS, max(1, WINDOW_ROWS // max(64, batch_size)))
    places = defaultdict(list)
    for place, video in enumerate(order):
        places[videos.index(video) // rows if rows > 1 else video].append(place)
    for block in places.values():
        wanted = np.sort(block)
        gaps = np.diff([*wanted, wanted[0] + len(order)])  # the order is a circle
        assert len(order) - gaps.max() <= 1.5 * WINDOW_ROWS + 2 * batch_size


def test_few_videos_are_shuffled() -> None:
    videos = range(WINDOW_ROWS)
    assert block_order(videos, seed=1, epoch=2, batch_size=8) == epoch_order(
        videos, seed=1, epoch=2
    )


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_first_uses_name_each_video_once_before_it_is_read_and_blocks_in_runs(
    rank: int | None,
) -> None:
    videos = range(100, 12_388)  # three windows of 4096
    steps = cut_batches(block_order(videos, seed=1, epoch=0, batch_size=64), 64)
    parts = steps if rank is None else [cut_parts(step, 2)[rank] for step in steps]
    ahead = first_uses(parts, videos, batch_size=64)
    assert sorted(chain.from_iterable(ahead)) == sorted(chain.from_iterable(parts))
    told: set[int] = set()
    for part, run in zip(parts, ahead, strict=True):
        told.update(run)
        assert told >= set(part)
    if rank is None:
        middle = ahead[5:30]  # begun and ended in the first half
        assert {len(run) % BLOCK_ROWS for run in middle} == {0}
        assert sum(map(len, middle)) == pytest.approx(64 * len(middle), rel=0.2)
        for run in middle:
            for first in range(0, len(run), BLOCK_ROWS):
                block = run[first : first + BLOCK_ROWS]
                assert block == list(range(block[0], block[0] + BLOCK_ROWS))
