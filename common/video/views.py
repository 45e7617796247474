"""What one view of a video is: frame numbers, crop box and flip, drawn once and stored.

The stored numbers are the truth. The seed only says where they came from, so a view can be replayed
without drawing anything, and views of one video never depend on other views or videos.

Two frames of reference: the source video, and the short-side frame it is resized to (its shorter
side is `ViewSpec.short_side` pixels). All boxes lie in the second one.
"""

from dataclasses import dataclass
from math import log
from typing import Final, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.rng import keyed_generator
from reskd.common.video.sampling import frame_indices, train_offsets

OK: Final = 0
"""Status of a view that can be replayed."""
FAILED: Final = 1
"""Status of a view whose video could not be read."""

# What follows the T frame numbers in a row. Part of the store's format.
_TAIL: Final = (
    "top",
    "left",
    "height",
    "width",
    "flip",
    "frame_height",
    "frame_width",
    "status",
)

_ASPECT_RANGE: Final = (3 / 4, 4 / 3)
_AREA_RANGE: Final = (0.08, 1.0)
_ATTEMPTS: Final = 10

# Quarter steps (right, down) of the 13 fixed positions: corners and centre, middles of the sides,
# quarter points. A draw names a position by its place here, so the order is part of the format.
_POSITIONS: Final = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewParams:
    """One view: everything needed to make its frames from the video, and nothing random."""

    frame_indices: tuple[int, ...]
    """Source frames in order, T of them, counted from 0; repeats are allowed."""
    top: int
    """First row of the crop box in the short-side frame."""
    left: int
    """First column of the crop box in the short-side frame."""
    height: int
    """Rows of the crop box: [top, top + height)."""
    width: int
    """Columns of the crop box: [left, left + width)."""
    flip: bool
    """Mirrored left to right, after cropping."""
    frame_height: int
    """Rows of the short-side frame."""
    frame_width: int
    """Columns of the short-side frame."""

    def __post_init__(self) -> None:
        if not self.frame_indices or min(self.frame_indices) < 0:
            raise ValueError(
                "frame_indices must name at least one frame, counted from 0, "
                f"got {self.frame_indices}"
            )
        _check_side("rows", self.top, self.height, self.frame_height)
        _check_side("columns", self.left, self.width, self.frame_width)

    def to_row(self) -> NDArray[np.int32]:
        """The view as one row of the store: (T + 8,) int32, named by `columns`."""
        tail = [int(getattr(self, name)) for name in _TAIL[:-1]]
        return np.array([*self.frame_indices, *tail, OK], dtype=np.int32)

    @classmethod
    def from_row(cls, row: NDArray[np.int32]) -> Self:
        """The view written by `to_row`.

        Args:
            row: (T + 8,) int32.

        Raises:
            ValueError: If the row has another shape, marks an unreadable video, or holds numbers
                that are no view.
        """
        if row.ndim != 1 or row.size <= len(_TAIL):
            raise ValueError(
                f"a view row holds T frame numbers and {len(_TAIL)} more, got shape {row.shape}"
            )
        *indices, top, left, height, width, flip, frame_height, frame_width, status = row.tolist()
        if status == FAILED:
            raise ValueError(
                "the row marks a video that could not be read, so there is no view to replay; "
                "leave out rows whose status is FAILED"
            )
        if status != OK or flip not in (0, 1):
            raise ValueError(
                f"a view row has status 0 or 1 and flip 0 or 1, got status {status} and flip {flip}"
            )
        return cls(
            frame_indices=tuple(indices),
            top=top,
            left=left,
            height=height,
            width=width,
            flip=bool(flip),
            frame_height=frame_height,
            frame_width=frame_width,
        )


def columns(num_frames: int) -> list[str]:
    """Names of the T + 8 numbers of a row, for `num_frames` = T."""
    return [*(f"frame_{t}" for t in range(num_frames)), *_TAIL]


def failed_row(num_frames: int) -> NDArray[np.int32]:
    """Row of a video that could not be read: (T + 8,) int32, all -1 but the status."""
    row = np.full(num_frames + len(_TAIL), -1, dtype=np.int32)
    row[-1] = FAILED
    return row


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Size of a frame after its shorter side is brought to `short_side`, up or down.

    Args:
        height: Source rows, at least 1.
        width: Source columns, at least 1.
        short_side: Wanted rows or columns of the shorter side.

    Returns:
        (rows, columns); halves round up.

    Raises:
        ValueError: If the source has no pixels.

    Source: ResKD reference, Resize with scale (-1, short_side).
    """
    if min(height, width) < 1:
        raise ValueError(f"a frame has at least 1x1 pixels, got height {height}, width {width}")
    scale = short_side / min(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def draw_view(
    *,
    clip: ClipSpec,
    views: ViewSpec,
    video_id: str,
    view: int,
    num_frames: int,
    height: int,
    width: int,
) -> ViewParams:
    """Draw one training view. It depends on the arguments alone.

    The generator is keyed by (views.seed, video_id, view). The order of draws is part of the
    format: a change gives other views for the same seed.

    1. Frames: as `train_offsets` says, K integers at once or none.
    2. Crop. multi_scale: the pair of sides, then the position. random_resized: 10 log aspects,
       10 areas, then left and top of the first box that fits (nothing where none does).
    3. Flip: one uniform number, drawn even where flip_probability is 0. Last, so that recipes with
       and without flips share frames and crops.

    Args:
        clip: Number, length and step of the pieces.
        views: Seed, short side, crop rule, flip probability. `count` is not looked at: a cache may
            grow by further views.
        video_id: Name of the video in its index.
        view: Number of the view, from 0.
        num_frames: N, frames of the source video.
        height: Rows of the source video.
        width: Columns of the source video.

    Raises:
        ValueError: If the source has no frames or no pixels.

    Source: ResKD reference, SampleFrames, Resize, MultiScaleCrop or RandomResizedCrop, Flip.
    """
    rng = keyed_generator(views.seed, video_id, view)
    offsets = train_offsets(num_frames, clip=clip, rng=rng)
    frame_height, frame_width = short_side_size(height, width, views.short_side)
    if views.crop == "multi_scale":
        box = _multi_scale_box(frame_height, frame_width, scales=views.scales, rng=rng)
    else:
        box = _random_resized_box(frame_height, frame_width, rng=rng)
    top, left, crop_height, crop_width = box
    return ViewParams(
        frame_indices=tuple(frame_indices(offsets, num_frames=num_frames, clip=clip).tolist()),
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        flip=bool(rng.random() < views.flip_probability),
        frame_height=frame_height,
        frame_width=frame_width,
    )


def _multi_scale_box(
    frame_height: int, frame_width: int, *, scales: tuple[float, ...], rng: Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width): one of few sides, at one of 13 fixed positions.

    Sides whose scales are not neighbours in `scales` are not paired, which bounds the distortion
    of squeezing the box into a square.

    Source: ResKD reference, MultiScaleCrop with max_wh_scale_gap 1 and num_fixed_crops 13. Its rule
    that a side within 2 pixels of input_size becomes that never applies in the published recipes.
    """
    sides = [max(1, int(min(frame_height, frame_width) * scale)) for scale in scales]
    pairs = _side_pairs(sides)
    height, width = pairs[rng.integers(len(pairs))]
    right, down = _POSITIONS[rng.integers(len(_POSITIONS))]
    # Four floored steps may fall up to 3 pixels short of the far edge, as in the reference.
    top = down * ((frame_height - height) // 4)
    left = right * ((frame_width - width) // 4)
    return top, left, height, width


def _side_pairs(sides: list[int]) -> list[tuple[int, int]]:
    """(height, width) of all pairs at most one place apart, height varying slowest."""
    return [
        (height, width)
        for i, height in enumerate(sides)
        for j, width in enumerate(sides)
        if abs(i - j) <= 1
    ]


def _random_resized_box(
    frame_height: int, frame_width: int, *, rng: Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width): random area and aspect, anywhere in the frame.

    Source: ResKD reference, RandomResizedCrop with its defaults: area 8 % to 100 % of the frame,
    width over height log-uniform in [3/4, 4/3), else the largest centred square.
    """
    aspects = np.exp(rng.uniform(log(_ASPECT_RANGE[0]), log(_ASPECT_RANGE[1]), size=_ATTEMPTS))
    areas = rng.uniform(*_AREA_RANGE, size=_ATTEMPTS) * (frame_height * frame_width)
    for aspect, area in zip(aspects.tolist(), areas.tolist(), strict=True):
        width = max(1, round((area * aspect) ** 0.5))
        height = max(1, round((area / aspect) ** 0.5))
        if height <= frame_height and width <= frame_width:
            left = int(rng.integers(frame_width - width + 1))
            top = int(rng.integers(frame_height - height + 1))
            return top, left, height, width
    side = min(frame_height, frame_width)
    return (frame_height - side) // 2, (frame_width - side) // 2, side, side


def _check_side(name: str, first: int, count: int, available: int) -> None:
    if first < 0 or count < 1 or first + count > available:
        raise ValueError(
            f"the crop box takes {name} [{first}, {first + count}), but the short-side frame has "
            f"{name} [0, {available})"
        )
