"""Views: positions and pairs worked out by hand, boxes that always fit, draws that never change."""

from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.video.views import (
    FAILED,
    OK,
    ViewParams,
    columns,
    draw_view,
    failed_row,
    short_side_size,
)

Crop = Literal["multi_scale", "random_resized"]

CLIP = ClipSpec(num_clips=4)
VIEWS = ViewSpec(count=2, seed=7)
SIDES = st.integers(1, 2000)
VIEW = ViewParams(
    frame_indices=(0, 9, 9),
    top=8,
    left=10,
    height=224,
    width=192,
    flip=True,
    frame_height=256,
    frame_width=340,
)


def drawn(
    view: int = 3,
    *,
    views: ViewSpec = VIEWS,
    video_id: str = "v_abc.mp4",
    num_frames: int = 120,
    height: int = 240,
    width: int = 320,
) -> ViewParams:
    return draw_view(
        clip=CLIP,
        views=views,
        video_id=video_id,
        view=view,
        num_frames=num_frames,
        height=height,
        width=width,
    )


def test_row_of_a_view_is_named_by_columns_and_read_back() -> None:
    row = VIEW.to_row()
    assert row.dtype == np.int32
    assert dict(zip(columns(3), row.tolist(), strict=True)) == {
        "frame_0": 0,
        "frame_1": 9,
        "frame_2": 9,
        "top": 8,
        "left": 10,
        "height": 224,
        "width": 192,
        "flip": 1,
        "frame_height": 256,
        "frame_width": 340,
        "status": OK,
    }
    assert ViewParams.from_row(row) == VIEW


@pytest.mark.parametrize("crop", ["multi_scale", "random_resized"])
def test_row_of_a_drawn_view_is_read_back(crop: Crop) -> None:
    params = drawn(views=replace(VIEWS, crop=crop))
    again = ViewParams.from_row(params.to_row())
    assert again == params
    assert isinstance(again.flip, bool)


def test_row_of_unreadable_video_has_status_failed_and_is_no_view() -> None:
    row = failed_row(3)
    assert row.tolist() == [-1] * 10 + [FAILED]
    assert len(row) == len(columns(3))
    with pytest.raises(ValueError, match="could not be read"):
        ViewParams.from_row(row)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (-1, 7, "status 7"),
        (-4, 2, "flip 2"),
        (0, -1, "frame_indices"),
        (3, 33, r"rows \[33, 257\).*rows \[0, 256\)"),
        (4, 149, r"columns \[149, 341\)"),
        (5, 0, "rows"),
        (3, -1, "rows"),
    ],
)
def test_row_with_a_wrong_number_is_refused(position: int, value: int, message: str) -> None:
    row = VIEW.to_row()
    row[position] = value
    with pytest.raises(ValueError, match=message):
        ViewParams.from_row(row)


def test_row_of_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8,\)"):
        ViewParams.from_row(np.zeros(8, dtype=np.int32))
    with pytest.raises(ValueError, match=r"\(1, 11\)"):
        ViewParams.from_row(VIEW.to_row()[np.newaxis])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((240, 320), (256, 341)),  # 341.33
        ((320, 240), (341, 256)),
        ((256, 340), (256, 340)),
        ((512, 681), (256, 341)),  # 340.5 rounds up
        ((1080, 1920), (256, 455)),
        ((1, 1), (256, 256)),
    ],
)
def test_short_side_size_of_known_source_matches_hand_value(
    source: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert short_side_size(*source, 256) == expected


def test_short_side_size_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="height 0, width 5"):
        short_side_size(0, 5, 256)


@settings(deadline=None)
@given(height=SIDES, width=SIDES, short_side=st.integers(1, 400))
def test_short_side_size_of_any_source_has_that_short_side(
    height: int, width: int, short_side: int
) -> None:
    rows, cols = short_side_size(height, width, short_side)
    assert min(rows, cols) == short_side
    assert (rows <= cols) == (height <= width) or rows == cols


def test_multi_scale_positions_of_known_frame_are_the_13_of_the_reference() -> None:
    # Source 256x340 is its own short-side frame. A 192x192 crop leaves 64 rows and 148 columns, so
    # a step is 16 down and 37 right.
    views = ViewSpec(count=1, scales=(0.75,))
    boxes = {drawn(view, views=views, height=256, width=340) for view in range(300)}
    assert {(box.height, box.width) for box in boxes} == {(192, 192)}
    assert {(box.top, box.left) for box in boxes} == {
        *((0, 0), (0, 148), (64, 0), (64, 148), (32, 74)),
        *((32, 0), (32, 148), (64, 74), (0, 74)),
        *((16, 37), (16, 111), (48, 37), (48, 111)),
    }


def test_multi_scale_far_edge_falls_short_by_the_floored_steps() -> None:
    # 343 - 192 = 151 columns are free; four steps of 37 reach 148.
    views = ViewSpec(count=1, scales=(0.75,))
    lefts = {drawn(view, views=views, height=256, width=343).left for view in range(100)}
    assert max(lefts) == 148


def test_multi_scale_sides_of_four_scales_form_ten_pairs() -> None:
    boxes = [drawn(view, height=256, width=340) for view in range(300)]
    assert {(box.height, box.width) for box in boxes} == {
        *((256, 256), (256, 224), (224, 256), (224, 224), (224, 192)),
        *((192, 224), (192, 192), (192, 168), (168, 192), (168, 168)),
    }


def test_multi_scale_side_is_cut_to_whole_pixels() -> None:
    # 0.875 * 108 = 94.5; the reference's recipe for 96 pixels takes 94 as well.
    views = ViewSpec(count=1, short_side=108, size=96, scales=(0.875,))
    assert {drawn(view, views=views).height for view in range(5)} == {94}


def test_multi_scale_draws_are_uniform_over_pairs_and_positions() -> None:
    boxes = [drawn(view, height=256, width=340) for view in range(5000)]
    pairs = Counter((box.height, box.width) for box in boxes)
    # 500 expected, standard deviation 21; 4.5 of them on either side.
    assert all(abs(count - 500) < 96 for count in pairs.values())
    # Places as eighths of the free rows and columns: one number for every size of crop.
    places = Counter(
        (round(4 * box.top / (256 - box.height)), round(4 * box.left / (340 - box.width)))
        for box in boxes
        if box.height < 256
    )
    assert len(places) == 13
    expected = sum(places.values()) / 13
    assert all(abs(count - expected) < 4.5 * expected**0.5 for count in places.values())
    flips = sum(box.flip for box in boxes)
    assert abs(flips - 2500) < 4.5 * 1250**0.5


def test_random_resized_draws_cover_areas_and_aspects_of_the_reference() -> None:
    views = ViewSpec(count=1, crop="random_resized")
    boxes = [drawn(view, views=views, height=256, width=256) for view in range(1000)]
    areas = np.array([box.height * box.width / 256**2 for box in boxes])
    aspects = np.array([box.width / box.height for box in boxes])
    # One pixel of rounding moves a side of 72 by at most 1.4 %.
    assert 0.078 < areas.min() < 0.1
    assert 0.9 < areas.max() <= 1
    assert 0.73 < aspects.min() < 0.76
    assert 1.31 < aspects.max() < 1.36
    assert abs(float(np.log(aspects).mean())) < 0.02
    # Offsets reach both edges: their bounds are inclusive.
    assert any(box.left == 0 for box in boxes)
    assert any(box.left + box.width == 256 for box in boxes)


def test_random_resized_in_a_strip_falls_back_to_the_centre_square() -> None:
    # In 256x8192 pixels a box of at least 8 % of the area is at least 353 pixels high.
    views = ViewSpec(count=1, crop="random_resized")
    box = drawn(views=views, height=100, width=3200)
    assert (box.top, box.left, box.height, box.width) == (0, 3968, 256, 256)


@settings(deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    num_frames=st.integers(1, 300),
    view=st.integers(0, 5),
    views=st.builds(
        ViewSpec,
        count=st.just(1),
        seed=st.integers(0, 3),
        short_side=st.integers(224, 300),
        crop=st.sampled_from(["multi_scale", "random_resized"]),
        scales=st.lists(st.floats(0.001, 1), min_size=1, max_size=5).map(tuple),
    ),
)
def test_drawn_box_of_any_source_lies_inside_the_frame(
    height: int, width: int, num_frames: int, view: int, views: ViewSpec
) -> None:
    # ViewParams refuses boxes that leave the frame.
    params = drawn(view, views=views, num_frames=num_frames, height=height, width=width)
    assert (params.frame_height, params.frame_width) == short_side_size(
        height, width, views.short_side
    )
    assert len(params.frame_indices) == CLIP.num_frames
    assert max(params.frame_indices) < num_frames


def test_drawn_view_depends_on_its_own_key_alone() -> None:
    alone = drawn(3)
    others = [drawn(view, video_id=name) for name in ("a", "v_abc.mp4") for view in range(6)]
    assert drawn(3) == alone
    assert drawn(3, views=replace(VIEWS, count=50)) == alone
    assert others.count(alone) == 1
    # Sums of seed and view number would collide here.
    assert drawn(4, views=replace(VIEWS, seed=6)) != alone
    assert drawn(2, views=replace(VIEWS, seed=8)) != alone


def test_flip_probability_leaves_frames_and_crop_as_they_are() -> None:
    never = replace(VIEWS, flip_probability=0)
    always = replace(VIEWS, flip_probability=1)
    for view in range(50):
        plain, mirrored = drawn(view, views=never), drawn(view, views=always)
        assert not plain.flip
        assert mirrored.flip
        assert replace(plain, flip=True) == mirrored
        assert drawn(view) in (plain, mirrored)


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        ("multi_scale", [1, 45, 72, 94, 24, 21, 224, 256, 1, 256, 341, 0]),
        ("random_resized", [1, 45, 72, 94, 4, 48, 236, 291, 1, 256, 341, 0]),
    ],
)
def test_drawn_view_of_one_key_keeps_its_values(crop: Crop, expected: list[int]) -> None:
    # Frozen: another order of draws would give other views for the seeds of existing caches.
    views = replace(VIEWS, crop=crop)
    assert drawn(views=views).to_row().tolist() == expected


def test_views_of_video_without_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 frame"):
        drawn(num_frames=0)
