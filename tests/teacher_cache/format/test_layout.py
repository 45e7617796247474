"""Arithmetic between rows, units and bytes."""

import pytest

from reskd.common.distill.arrays import ArraySpec
from reskd.teacher_cache.format.layout import (
    CRC_BYTES,
    INDEX_ENTRY_BYTES,
    Layout,
    choose_unit_videos,
    commit_key,
    object_key,
)

FEATURES = ArraySpec(name="features", row_shape=(8, 2048, 4, 4), dtype="float16")


def total_bytes(layout: Layout, array: ArraySpec, views: range | None = None) -> int:
    views = range(layout.num_views) if views is None else views
    return sum(layout.unit_bytes(array, unit, views) for unit in range(layout.num_units))


@pytest.mark.parametrize("num_videos", [1, 7, 8, 9, 64])
@pytest.mark.parametrize("unit_videos", [1, 3, 8, 100])
def test_units_of_any_size_cover_each_video_once(num_videos: int, unit_videos: int) -> None:
    layout = Layout(num_views=2, block_views=2, num_videos=num_videos, unit_videos=unit_videos)
    units = [layout.videos_of(unit) for unit in range(layout.num_units)]
    assert [video for unit in units for video in unit] == list(range(num_videos))
    for video in range(num_videos):
        unit, place = layout.locate(video)
        assert units[unit][place] == video


def test_object_bytes_of_full_and_last_unit_count_rows_checksums_and_index() -> None:
    array = ArraySpec(name="x", row_shape=(3,), dtype="float16")
    layout = Layout(num_views=2, block_views=2, num_videos=5, unit_videos=4)
    index = 2 * 4 * INDEX_ENTRY_BYTES + CRC_BYTES
    assert layout.object_bytes(array, 0, 0) == 8 * (6 + CRC_BYTES) + index
    assert layout.object_bytes(array, 0, 1) == 2 * (6 + CRC_BYTES) + index
    assert total_bytes(layout, array) == 10 * (6 + CRC_BYTES) + 2 * index


def test_object_bytes_per_view_of_tsn_features_stay_within_half_a_percent_of_the_row() -> None:
    layout = Layout(num_views=10, block_views=10, num_videos=100, unit_videos=50)
    assert FEATURES.row_bytes == 524_288
    assert total_bytes(layout, FEATURES) / 1000 <= FEATURES.row_bytes * 1.005


def test_keys_follow_zarr_chunk_names() -> None:
    assert object_key(FEATURES, 0, 12) == "features/c/0/12/0/0/0/0"
    assert object_key(ArraySpec(name="r", row_shape=(), dtype="float32"), 1, 3) == "r/c/1/3"
    assert commit_key(1, 42) == "commits/000042.g1.json"


def test_choose_unit_videos_fits_two_units_into_memory_and_makes_eight() -> None:
    arrays = (FEATURES,)
    two_videos = 2 * (FEATURES.row_bytes + CRC_BYTES) * 10
    small = choose_unit_videos(arrays, num_views=10, num_videos=10_000, memory_bytes=two_videos * 7)
    assert small == 7
    assert choose_unit_videos(arrays, num_views=1, num_videos=80, memory_bytes=10**12) == 10
    assert choose_unit_videos(arrays, num_views=10, num_videos=3, memory_bytes=1) == 1


def test_choose_unit_videos_keeps_groups_whole_before_it_makes_eight_units() -> None:
    sizes = [
        choose_unit_videos(
            (FEATURES,), num_views=1, num_videos=videos, memory_bytes=10**12, multiple=8
        )
        for videos in (5, 20, 64, 100, 135)
    ]
    assert sizes == [5, 8, 8, 8, 16]


def test_blocks_cover_each_view_once_and_the_last_one_may_be_short() -> None:
    layout = Layout(num_views=7, block_views=3, num_videos=5, unit_videos=4)
    assert [list(layout.views_of(block)) for block in range(layout.num_blocks)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6],
    ]
    assert list(layout.blocks_of(range(3, 7))) == [1, 2]
    array = ArraySpec(name="x", row_shape=(3,), dtype="float16")
    index = 3 * 4 * INDEX_ENTRY_BYTES + CRC_BYTES
    assert layout.object_bytes(array, 2, 1) == 6 + CRC_BYTES + index
    assert total_bytes(layout, array) == 35 * (6 + CRC_BYTES) + 6 * index
    assert total_bytes(layout, array, range(6, 7)) == 5 * (6 + CRC_BYTES) + 2 * index


def test_bytes_per_view_of_a_resnet_50_store() -> None:
    """8 frames, 200 classes, 4x4 grid; features as int8, frames of 112 px."""
    layout = Layout(num_views=10, block_views=10, num_videos=10_000, unit_videos=160)

    def per_view(name: str, shape: tuple[int, ...], dtype: str) -> float:
        array = ArraySpec(name=name, row_shape=shape, dtype=dtype)
        return total_bytes(layout, array) / (10 * 10_000)

    exact = per_view("features", (8, 2048, 4, 4), "float16")
    assert exact <= 524_288 * 1.005
    small = per_view("features", (8, 2048, 4, 4), "int8")
    small += per_view("feature_scale", (2048,), "float16")
    assert small <= 280_000
    everything_else = (
        per_view("feature_residual", (), "float32")
        + per_view("views", (16,), "int32")
        + 4 * (CRC_BYTES + INDEX_ENTRY_BYTES)  # of features, their scale, logits and frames
    )
    assert everything_else < 200
