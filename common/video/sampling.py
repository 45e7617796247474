"""Which frames a clip is made of: pure arithmetic on frame numbers.

A video of N frames gives K pieces (`num_clips`) of `clip_len` frames. A piece is planned as if it
covered L = clip_len * frame_interval source frames, so it may start at N - L + 1 places. Training
draws one start in each of K segments, testing takes the middle of each.

Source: ResKD reference, SampleFrames (the mmaction2 0.x rule; 1.x counts L and places the starts
of 3D clips differently, and the two agree for clip_len 1).
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from reskd.common.experiment import ClipSpec


def train_offsets(num_frames: int, *, clip: ClipSpec, rng: Generator) -> NDArray[np.int64]:
    """First frames of the K pieces, drawn for training.

    The first rule that applies decides:

    1. Segments of at least one start: one uniform start in each, so the result is sorted.
    2. Fewer starts than pieces, but more frames than K and than L: K uniform starts, sorted.
    3. Between 0 and K - 1 starts: spread evenly, halves rounded to even; nothing is drawn.
    4. The piece is longer than the video: all zeros, and `frame_indices` wraps; nothing is drawn.

    Args:
        num_frames: N, frames of the video, at least 1.
        clip: Number, length and step of the pieces.
        rng: Source of the first two rules' draws.

    Returns:
        (K,) int64, not decreasing, each in [0, N - L + 1); by rule 3 the last may round up to
        N - L + 1, from where a piece may wrap to the first frame.

    Raises:
        ValueError: If the video has no frames.

    Source: ResKD reference, SampleFrames, training mode.
    """
    starts = _count_starts(num_frames, clip)
    # Floor division: a negative number of starts must not round up to an empty segment (rule 3).
    segment = starts // clip.num_clips
    if segment > 0:
        return segment * np.arange(clip.num_clips) + rng.integers(segment, size=clip.num_clips)
    if num_frames > max(clip.num_clips, _span(clip)):
        drawn: NDArray[np.int64] = np.sort(rng.integers(starts, size=clip.num_clips))
        return drawn
    if segment == 0:
        # The quotient first: i * starts / K would round other halves than the reference does.
        spread = np.arange(clip.num_clips) * (starts / clip.num_clips)
        return spread.round().astype(np.int64)
    return np.zeros(clip.num_clips, dtype=np.int64)


def test_offsets(
    num_frames: int,
    *,
    clip: ClipSpec,
    twice_sample: bool = False,  # noqa: PT028 - "test" is the mode, not a test function
) -> NDArray[np.int64]:
    """First frames of the K pieces, the same every time: the middles of K equal segments.

    Args:
        num_frames: N, frames of the video, at least 1.
        clip: Number, length and step of the pieces.
        twice_sample: Append K more pieces, at the beginnings of the segments (a second test view).

    Returns:
        (K,) or, with twice_sample, (2K,) int64; all zeros where the video is shorter than L.

    Raises:
        ValueError: If the video has no frames.

    Source: ResKD reference, SampleFrames, test mode. With twice_sample it returns K zeros, not 2K,
    for a short video; here the length depends on the arguments alone. It also truncates the
    appended beginnings only after adding the steps inside a piece, which is the same for clip_len
    1, the only one it is used with, and differs by rounding noise in 0.2 % of longer clips.
    """
    starts = max(_count_starts(num_frames, clip), 0)
    # True division: segments are fractions of a frame here, unlike in training.
    segment = starts / clip.num_clips
    beginnings = np.arange(clip.num_clips) * segment
    middles = beginnings + segment / 2
    chosen = np.concatenate([middles, beginnings]) if twice_sample else middles
    return chosen.astype(np.int64)  # truncates


def frame_indices(
    offsets: NDArray[np.int64], *, num_frames: int, clip: ClipSpec
) -> NDArray[np.int64]:
    """Frame numbers of all pieces, piece after piece; past its end the video starts again.

    Args:
        offsets: First frames of the pieces, (P,), P = K or any other number.
        num_frames: N, frames of the video, at least 1.
        clip: Length and step of the pieces.

    Returns:
        (P * clip_len,) int64, each in [0, N), counted from 0.

    Raises:
        ValueError: If the video has no frames.

    Source: ResKD reference, SampleFrames with out_of_bound_opt "loop".
    """
    _require_frames(num_frames)
    steps = np.arange(clip.clip_len, dtype=np.int64) * clip.frame_interval
    indices: NDArray[np.int64] = (offsets[:, np.newaxis] + steps).reshape(-1) % num_frames
    return indices


def _span(clip: ClipSpec) -> int:
    """L, the source frames a piece is planned with; its last frame_interval - 1 go unread."""
    return clip.clip_len * clip.frame_interval


def _count_starts(num_frames: int, clip: ClipSpec) -> int:
    """N - L + 1, the places where a piece may start; below 1 when it does not fit."""
    _require_frames(num_frames)
    return num_frames - _span(clip) + 1


def _require_frames(num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"a clip needs a video of at least 1 frame, got num_frames={num_frames}")
