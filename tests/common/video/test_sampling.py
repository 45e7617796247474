"""Frame sampling: vectors of the reference, every branch, and bounds that hold everywhere."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator

from reskd.common.experiment import ClipSpec
from reskd.common.rng import keyed_generator

# The module, since pytest would collect a function of the name `test_offsets`.
from reskd.common.video import sampling

CLIPS = st.builds(
    ClipSpec,
    num_clips=st.integers(1, 20),
    clip_len=st.integers(1, 10),
    frame_interval=st.integers(1, 5),
)
NUM_FRAMES = st.integers(1, 400)
# A 3D network's clip: 8 frames, 8 apart, planned as 64 source frames.
LONG = ClipSpec(num_clips=10, clip_len=8, frame_interval=8)


def generator() -> Generator:
    return keyed_generator(0, "video", 0)


@dataclass(frozen=True)
class Vector:
    """Offsets worked out by hand from the rule."""

    id: str
    num_frames: int
    clip: ClipSpec
    expected: list[int]


TEST_VECTORS = [
    Vector(
        "16 segments of 2.5 frames",
        40,
        ClipSpec(num_clips=16),
        [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38],
    ),
    Vector("3D clips", 300, LONG, [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]),
    Vector("fewer frames than segments", 2, ClipSpec(num_clips=4), [0, 0, 1, 1]),
    Vector("one start for all", 64, LONG, [0] * 10),
    Vector("video shorter than a piece", 63, LONG, [0] * 10),
    Vector("one frame", 1, ClipSpec(num_clips=3), [0, 0, 0]),
]

UNDRAWN_TRAIN_VECTORS = [
    Vector("spread over 5 frames", 5, ClipSpec(num_clips=8), [0, 1, 1, 2, 2, 3, 4, 4]),
    # Starts at 0, 1/2, 1, 3/2: the halves go to the even neighbour, 0 and 2.
    Vector("halves to even", 2, ClipSpec(num_clips=4), [0, 0, 1, 2]),
    Vector("as many frames as a piece", 64, ClipSpec(num_clips=4, clip_len=64), [0, 0, 0, 1]),
    Vector("no start at all", 63, LONG, [0] * 10),
    Vector("far too short", 5, LONG, [0] * 10),
]


@pytest.mark.parametrize("vector", TEST_VECTORS, ids=lambda v: v.id)
def test_test_offsets_of_known_video_match_hand_values(vector: Vector) -> None:
    offsets = sampling.test_offsets(vector.num_frames, clip=vector.clip)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == vector.expected


@pytest.mark.parametrize("vector", UNDRAWN_TRAIN_VECTORS, ids=lambda v: v.id)
def test_train_offsets_of_short_video_draw_nothing(vector: Vector) -> None:
    rng = generator()
    offsets = sampling.train_offsets(vector.num_frames, clip=vector.clip, rng=rng)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == vector.expected
    assert rng.random() == generator().random()


def test_test_offsets_twice_append_truncated_beginnings() -> None:
    # Segments of 2.5 frames begin at 0, 2.5, 5 and 7.5; their middles come first.
    offsets = sampling.test_offsets(10, clip=ClipSpec(num_clips=4), twice_sample=True)
    assert offsets.tolist() == [1, 3, 6, 8, 0, 2, 5, 7]


def test_test_offsets_twice_of_short_video_are_as_many() -> None:
    assert sampling.test_offsets(5, clip=LONG, twice_sample=True).tolist() == [0] * 20


def test_train_offsets_of_long_video_reach_every_start_of_a_segment() -> None:
    # 40 starts in 4 segments of 10: the upper bound of a draw is exclusive.
    rng = generator()
    clip = ClipSpec(num_clips=4)
    draws = np.stack([sampling.train_offsets(43, clip=clip, rng=rng) for _ in range(500)])
    for segment, column in enumerate(draws.T):
        assert set(column.tolist()) == set(range(10 * segment, 10 * segment + 10))


def test_train_offsets_with_fewer_starts_than_pieces_are_sorted_draws() -> None:
    # N = 70, L = 64: 7 starts for 10 pieces, but more frames than either number.
    rng = generator()
    draws = [sampling.train_offsets(70, clip=LONG, rng=rng) for _ in range(200)]
    assert all((np.diff(offsets) >= 0).all() for offsets in draws)
    assert {int(start) for offsets in draws for start in offsets} == set(range(7))
    assert any((draws[0] != offsets).any() for offsets in draws)


def test_frame_indices_go_piece_by_piece_and_wrap() -> None:
    clip = ClipSpec(num_clips=2, clip_len=4, frame_interval=3)
    indices = sampling.frame_indices(np.array([0, 5]), num_frames=10, clip=clip)
    assert indices.dtype == np.int64
    assert indices.tolist() == [0, 3, 6, 9, 5, 8, 1, 4]


def test_frame_indices_of_very_short_video_wrap_repeatedly() -> None:
    clip = ClipSpec(num_clips=1, clip_len=8)
    indices = sampling.frame_indices(np.array([0]), num_frames=3, clip=clip)
    assert indices.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_train_offsets_of_one_key_keep_their_values() -> None:
    # Frozen: stored views were drawn with these. A change means another format.
    drawn = sampling.train_offsets(300, clip=ClipSpec(num_clips=8), rng=generator())
    assert drawn.tolist() == [31, 47, 101, 126, 175, 210, 241, 277]


@settings(deadline=None)
@given(num_frames=NUM_FRAMES, clip=CLIPS, seed=st.integers(0, 9))
def test_train_indices_of_any_video_lie_inside_it(
    num_frames: int, clip: ClipSpec, seed: int
) -> None:
    offsets = sampling.train_offsets(num_frames, clip=clip, rng=keyed_generator(seed))
    again = sampling.train_offsets(num_frames, clip=clip, rng=keyed_generator(seed))
    assert offsets.tolist() == again.tolist()
    assert offsets.shape == (clip.num_clips,)
    assert (np.diff(offsets) >= 0).all()
    num_starts = num_frames - clip.clip_len * clip.frame_interval + 1
    segment = num_starts // clip.num_clips
    # Spread starts, the third rule, may round up to one past the last.
    past_last = max(0, num_starts) if segment <= 0 else num_starts - 1
    assert 0 <= offsets.min() <= offsets.max() <= past_last
    if segment > 0:
        assert (offsets // segment).tolist() == list(range(clip.num_clips))
    indices = sampling.frame_indices(offsets, num_frames=num_frames, clip=clip)
    assert indices.shape == (clip.num_frames,)
    assert 0 <= indices.min() <= indices.max() < num_frames


@settings(deadline=None)
@given(num_frames=NUM_FRAMES, clip=CLIPS, twice=st.booleans())
def test_test_indices_of_any_video_lie_inside_it(
    num_frames: int, clip: ClipSpec, twice: bool
) -> None:
    offsets = sampling.test_offsets(num_frames, clip=clip, twice_sample=twice)
    assert offsets.shape == (clip.num_clips * (2 if twice else 1),)
    assert (np.diff(offsets[: clip.num_clips]) >= 0).all()
    indices = sampling.frame_indices(offsets, num_frames=num_frames, clip=clip)
    assert indices.shape == (len(offsets) * clip.clip_len,)
    assert 0 <= indices.min() <= indices.max() < num_frames
    if num_frames >= clip.clip_len * clip.frame_interval:
        # No piece wraps where one fits.
        assert (np.diff(indices.reshape(-1, clip.clip_len), axis=1) == clip.frame_interval).all()


@pytest.mark.parametrize("num_frames", [0, -1])
def test_sampling_without_frames_is_refused(num_frames: int) -> None:
    clip = ClipSpec(num_clips=2)
    with pytest.raises(ValueError, match="at least 1 frame"):
        sampling.train_offsets(num_frames, clip=clip, rng=generator())
    with pytest.raises(ValueError, match="at least 1 frame"):
        sampling.test_offsets(num_frames, clip=clip)
    with pytest.raises(ValueError, match="at least 1 frame"):
        sampling.frame_indices(np.zeros(2, dtype=np.int64), num_frames=num_frames, clip=clip)
