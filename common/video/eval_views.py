"""The views that a network is tested on: pure arithmetic, the same every time.

A view is a clip cut in one place of the frame. The clips of a video are dealt out of one sampling
of K x clips pieces, so each of them spans the whole video: clip j takes the pieces j, j + clips and
so on. With one piece to a clip (3D networks) these are clips one after the other, with one clip the
usual middles of segments.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reskd.common.experiment import ClipSpec, EvaluationSpec, ViewSpec
from reskd.common.video.sampling import frame_indices, test_offsets
from reskd.common.video.views import ViewParams, short_side_size


def evaluation_views(
    *,
    clip: ClipSpec,
    views: ViewSpec,
    evaluation: EvaluationSpec,
    num_frames: int,
    height: int,
    width: int,
) -> tuple[ViewParams, ...]:
    """All views of one video that evaluation takes, never flipped.

    Crop varies slowest, then time, as in the reference: all clips of the first crop come first, of
    each crop those in the middles of the segments before those at their beginnings (`twice`).

    Args:
        clip: Number, length and step of the pieces of one clip.
        views: Short side and size where `evaluation` names none.
        evaluation: Clips, crops and where they are taken from.
        num_frames: N, frames of the source video.
        height: Rows of the source video.
        width: Columns of the source video.

    Returns:
        `num_views(evaluation)` views. Their boxes are squares of `crop_side` pixels, moved up and
        left by half a pixel where they cannot be centred.

    Raises:
        ValueError: If the source has no frames or no pixels.

    Source: ResKD reference, SampleFrames in test mode, Resize, CenterCrop and ThreeCrop. Its
    ThreeCrop asserts that a crop fills the shorter side; here smaller ones are centred on it.
    """
    short_side = _short_side(views, evaluation)
    frame_height, frame_width = short_side_size(height, width, short_side)
    side = crop_side(views, evaluation)
    clips = [
        tuple(frame_indices(offsets, num_frames=num_frames, clip=clip).tolist())
        for offsets in _offsets_of_clips(num_frames, clip, evaluation)
    ]
    return tuple(
        ViewParams(
            frame_indices=indices,
            top=top,
            left=left,
            height=side,
            width=side,
            flip=False,
            frame_height=frame_height,
            frame_width=frame_width,
        )
        for top, left in _corners(frame_height, frame_width, side, crops=evaluation.crops)
        for indices in clips
    )


def num_views(evaluation: EvaluationSpec) -> int:
    """Views of one video."""
    return num_clips(evaluation) * evaluation.crops


def num_clips(evaluation: EvaluationSpec) -> int:
    """Clips of one video, whatever the number of crops."""
    return evaluation.clips * (2 if evaluation.twice else 1)


def one_view(evaluation: EvaluationSpec) -> EvaluationSpec:
    """The same protocol with a single view: middles of the segments, centre crop."""
    return replace(evaluation, clips=1, twice=False, crops=1)


def crop_side(views: ViewSpec, evaluation: EvaluationSpec) -> int:
    """Side of every crop in pixels of the short-side frame; halves to even, at least 1."""
    return max(1, round(_short_side(views, evaluation) * evaluation.crop_fraction))


def teacher_size(views: ViewSpec, evaluation: EvaluationSpec) -> int:
    """Side of the frames that crops become, in pixels; the student's are made from these."""
    return evaluation.size or views.size


def protocol_text(clip: ClipSpec, views: ViewSpec, evaluation: EvaluationSpec) -> str:
    """The views for a person, such as `8 frames, 10 clips x 3 crops, 224 of short side 256`."""
    clips = num_clips(evaluation)
    return (
        f"{clip.num_frames} frames, {clips} clip{'s'[: clips > 1]} x "
        f"{'3 crops' if evaluation.crops == 3 else 'centre crop'}, "
        f"{crop_side(views, evaluation)} of short side {_short_side(views, evaluation)}"
    )


def _short_side(views: ViewSpec, evaluation: EvaluationSpec) -> int:
    return evaluation.short_side or views.short_side


def _offsets_of_clips(
    num_frames: int, clip: ClipSpec, evaluation: EvaluationSpec
) -> Iterator[NDArray[np.int64]]:
    """First frames of the K pieces of every clip."""
    pieces = replace(clip, num_clips=clip.num_clips * evaluation.clips)
    offsets = test_offsets(num_frames, clip=pieces, twice_sample=evaluation.twice)
    for sampling in np.split(offsets, 2) if evaluation.twice else [offsets]:
        for first in range(evaluation.clips):
            yield sampling[first :: evaluation.clips]


def _corners(
    frame_height: int, frame_width: int, side: int, *, crops: int
) -> list[tuple[int, int]]:
    """(top, left) of every crop: of three, the first end, the last end and the middle."""
    top, left = (frame_height - side) // 2, (frame_width - side) // 2
    if crops == 1:
        return [(top, left)]
    if frame_width >= frame_height:
        # Twice the floored step may fall a pixel short of the far end, as in the reference.
        return [(top, 0), (top, 2 * left), (top, left)]
    return [(0, left), (2 * top, left), (top, left)]
