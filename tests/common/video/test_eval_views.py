"""Test views: frames and boxes worked out by hand, and boxes that always fit."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskd.common.experiment import ClipSpec, EvaluationSpec, ViewSpec
from reskd.common.video.eval_views import (
    crop_side,
    evaluation_views,
    num_views,
    one_view,
    protocol_text,
    teacher_size,
)
from reskd.common.video.views import ViewParams

CLIP = ClipSpec(num_clips=4)
VIEWS = ViewSpec(count=2, seed=7)
# A 3D network's clip: 8 frames, 8 apart, planned as 64 source frames.
CLIP_3D = ClipSpec(num_clips=1, clip_len=8, frame_interval=8)
SIDES = st.integers(1, 2000)
EVALUATIONS = st.builds(
    EvaluationSpec,
    clips=st.integers(1, 5),
    twice=st.booleans(),
    crops=st.sampled_from([1, 3]),
    crop_fraction=st.floats(1e-6, 1),
    short_side=st.none() | st.integers(1, 400),
)


def views_of(
    evaluation: EvaluationSpec,
    *,
    clip: ClipSpec = CLIP,
    views: ViewSpec = VIEWS,
    num_frames: int = 10,
    height: int = 240,
    width: int = 320,
) -> tuple[ViewParams, ...]:
    return evaluation_views(
        clip=clip,
        views=views,
        evaluation=evaluation,
        num_frames=num_frames,
        height=height,
        width=width,
    )


def frames_of(evaluation: EvaluationSpec, *, clip: ClipSpec, num_frames: int) -> list[list[int]]:
    """Frame numbers of the views of one crop."""
    views = views_of(evaluation, clip=clip, num_frames=num_frames)
    return [list(view.frame_indices) for view in views]


def boxes_of(
    evaluation: EvaluationSpec, *, height: int = 240, width: int = 320
) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of every view."""
    views = views_of(evaluation, height=height, width=width)
    return [(view.top, view.left, view.height, view.width) for view in views]


def test_default_protocol_is_the_centre_view() -> None:
    assert views_of(EvaluationSpec()) == (
        ViewParams(
            frame_indices=(1, 3, 6, 8),
            top=16,
            left=58,  # 117 columns are free; the odd one goes to the right
            height=224,
            width=224,
            flip=False,
            frame_height=256,
            frame_width=341,
        ),
    )


def test_ten_clips_of_a_3d_network_are_ten_segments_of_the_video() -> None:
    found = frames_of(EvaluationSpec(clips=10), clip=CLIP_3D, num_frames=300)
    starts = [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]  # N - L + 1 = 237 places, 23.7 each
    assert found == [[start + 8 * step for step in range(8)] for start in starts]


def test_clips_of_several_pieces_each_span_the_video() -> None:
    # Eight segments of 5 frames; the middles go to the two clips in turn.
    found = frames_of(EvaluationSpec(clips=2), clip=CLIP, num_frames=40)
    assert found == [[2, 12, 22, 32], [7, 17, 27, 37]]


def test_pieces_of_several_frames_stay_whole() -> None:
    # N - L + 1 = 38 places, four segments of 9.5: 4, 14, 23, 33.
    clip = ClipSpec(num_clips=2, clip_len=3)
    found = frames_of(EvaluationSpec(clips=2), clip=clip, num_frames=40)
    assert found == [[4, 5, 6, 23, 24, 25], [14, 15, 16, 33, 34, 35]]


def test_twice_adds_clips_from_the_beginnings_of_the_same_segments() -> None:
    # Segments of 2.5 frames begin at 0, 2.5, 5 and 7.5.
    assert frames_of(EvaluationSpec(twice=True), clip=CLIP, num_frames=10) == [
        [1, 3, 6, 8],
        [0, 2, 5, 7],
    ]
    assert frames_of(EvaluationSpec(twice=True, clips=2), clip=CLIP, num_frames=40) == [
        [2, 12, 22, 32],
        [7, 17, 27, 37],
        [0, 10, 20, 30],
        [5, 15, 25, 35],
    ]


def test_clips_of_a_video_that_is_too_short_are_all_the_same() -> None:
    found = frames_of(EvaluationSpec(clips=3, twice=True), clip=CLIP_3D, num_frames=5)
    assert found == [[0, 3, 1, 4, 2, 0, 3, 1]] * 6


@dataclass(frozen=True)
class Crops:
    """Three crops worked out by hand: (top, left) in order, and their side."""

    id: str
    fraction: float
    height: int
    width: int
    corners: list[tuple[int, int]]
    side: int


@pytest.mark.parametrize(
    "case",
    [
        # 341 - 256 = 85: steps of 42, so the right one ends a pixel before the frame does.
        Crops("whole side, wide", 1.0, 240, 320, [(0, 0), (0, 84), (0, 42)], 256),
        Crops("whole side, tall", 1.0, 320, 240, [(0, 0), (84, 0), (42, 0)], 256),
        Crops("whole side, square", 1.0, 90, 90, [(0, 0)] * 3, 256),
        # 341 - 224 = 117: steps of 58; 256 - 224 = 32 rows, 16 above.
        Crops("part, wide", 0.875, 240, 320, [(16, 0), (16, 116), (16, 58)], 224),
        Crops("part, tall", 0.875, 320, 240, [(0, 16), (116, 16), (58, 16)], 224),
        Crops("part, square", 0.875, 90, 90, [(16, 0), (16, 32), (16, 16)], 224),
    ],
    ids=lambda case: case.id,
)
def test_three_crops_lie_at_both_ends_and_in_the_middle(case: Crops) -> None:
    evaluation = EvaluationSpec(crops=3, crop_fraction=case.fraction)
    found = boxes_of(evaluation, height=case.height, width=case.width)
    assert found == [(*corner, case.side, case.side) for corner in case.corners]


def test_crops_vary_slower_than_clips() -> None:
    views = views_of(EvaluationSpec(crops=3, clips=2, crop_fraction=1.0), num_frames=40)
    assert [(view.left, view.frame_indices[0]) for view in views] == [
        *((0, 2), (0, 7)),
        *((84, 2), (84, 7)),
        *((42, 2), (42, 7)),
    ]


def test_short_side_of_the_protocol_replaces_that_of_the_views() -> None:
    (view,) = views_of(EvaluationSpec(short_side=128, crop_fraction=1.0))
    assert (view.frame_height, view.frame_width, view.height, view.left) == (128, 171, 128, 21)


def test_size_of_the_protocol_replaces_that_of_the_views() -> None:
    assert teacher_size(VIEWS, EvaluationSpec()) == 224
    assert teacher_size(VIEWS, EvaluationSpec(size=256)) == 256


def test_protocol_text_names_clips_crops_and_sides() -> None:
    assert protocol_text(CLIP, VIEWS, EvaluationSpec()) == (
        "4 frames, 1 clip x centre crop, 224 of short side 256"
    )
    many = EvaluationSpec(clips=5, twice=True, crops=3, crop_fraction=1.0, short_side=224)
    assert protocol_text(CLIP_3D, VIEWS, many) == (
        "8 frames, 10 clips x 3 crops, 224 of short side 224"
    )


@settings(deadline=None)
@given(evaluation=EVALUATIONS, height=SIDES, width=SIDES, num_frames=st.integers(1, 99))
def test_views_of_any_source_are_squares_inside_the_frame(
    evaluation: EvaluationSpec, height: int, width: int, num_frames: int
) -> None:
    views = views_of(evaluation, height=height, width=width, num_frames=num_frames)
    side = crop_side(VIEWS, evaluation)
    assert abs(side - (evaluation.short_side or 256) * evaluation.crop_fraction) <= 1
    assert len(views) == num_views(evaluation)
    assert {(view.height, view.width, view.flip) for view in views} == {(side, side, False)}
    assert {len(view.frame_indices) for view in views} == {4}
    assert max(max(view.frame_indices) for view in views) < num_frames
    # ViewParams refuses boxes that leave the frame, so it only remains to see the centre.
    last = views[-1]
    assert 0 <= last.frame_height - side - 2 * last.top <= 1
    assert 0 <= last.frame_width - side - 2 * last.left <= 1


@settings(deadline=None)
@given(evaluation=EVALUATIONS, num_frames=st.integers(1, 99))
def test_one_view_is_the_same_protocol_without_clips_and_crops(
    evaluation: EvaluationSpec, num_frames: int
) -> None:
    centre = EvaluationSpec(
        crop_fraction=evaluation.crop_fraction, short_side=evaluation.short_side
    )
    found = views_of(one_view(evaluation), num_frames=num_frames)
    assert found == views_of(centre, num_frames=num_frames)


@pytest.mark.parametrize(("num_frames", "height"), [(0, 240), (10, 0)])
def test_views_of_a_source_without_frames_or_pixels_are_refused(
    num_frames: int, height: int
) -> None:
    with pytest.raises(ValueError, match=r"at least (1 frame|1x1 pixels)"):
        views_of(EvaluationSpec(), num_frames=num_frames, height=height)
