"""Which videos in which order, in which batches, which view."""

from itertools import chain

import pytest

from reskd.student_train.data.order import cut_batches, cut_parts, epoch_order, stored_view


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
