"""The resize in integer operations of tensors equals torch's uint8 kernel to the bit."""

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor

from reskd.common.experiment import ClipSpec, ViewSpec
from reskd.common.video import integer_resize
from reskd.common.video.integer_resize import resize_in_integers
from reskd.common.video.preprocess import (
    crop_and_resize,
    resize_bilinear,
    resize_short_side,
    shrink,
)
from reskd.common.video.views import ViewParams, draw_view

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def random_frames(rng: Generator, *shape: int) -> Tensor:
    """Noise; half of the time black and white alone, whose weighted sums are the largest."""
    pixels = rng.integers(0, 256, shape, np.uint8)
    if rng.random() < 0.5:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    return torch.from_numpy(pixels)


def side(rng: Generator) -> int:
    """Mostly of small videos, sometimes of 4K or of a few pixels."""
    most = rng.choice([8, 500, 4096], p=[0.1, 0.8, 0.1])
    return int(rng.integers(1, most + 1))


def compare_resizes(rng: Generator, *, values: int, device: str) -> None:
    """Frames of random sizes brought to random sizes, until so many values were compared."""
    done = 0
    while done < values:
        sizes = [side(rng) for _ in range(4)]
        if max(sizes[0] * sizes[1], sizes[2] * sizes[3]) > 2**21:
            continue
        frames = random_frames(rng, 2, *sizes[:2], 3)
        expected = resize_bilinear(frames, *sizes[2:])
        found = resize_in_integers(frames.to(device), *sizes[2:]).cpu()
        assert torch.equal(found, expected), f"{sizes[:2]} to {sizes[2:]}"
        done += expected.numel()


def drawn_view(rng: Generator, height: int, width: int) -> tuple[ViewParams, int]:
    """A view of a video of four frames as stage one draws it, and the size of its clip."""
    short_side = int(rng.choice([64, 128, 256]))
    spec = ViewSpec(
        count=1,
        seed=int(rng.integers(2**31)),
        short_side=short_side,
        size=short_side * 7 // 8,
        crop="multi_scale" if rng.random() < 0.5 else "random_resized",
    )
    view = draw_view(
        clip=ClipSpec(num_clips=3),
        views=spec,
        video_id="a",
        view=0,
        num_frames=4,
        height=height,
        width=width,
    )
    return view, spec.size


def compare_clips(rng: Generator, *, clips: int, device: str) -> None:
    """Views as stage one draws them: short side, crop, square, flip, and the student's frames."""
    for _ in range(clips):
        height, width = (int(rng.integers(90, 500)) for _ in range(2))
        view, size = drawn_view(rng, height, width)
        decoded = random_frames(rng, len(view.frame_indices), height, width, 3)
        clip, small = [], []
        for frames, resize in (
            (decoded, resize_bilinear),
            (decoded.to(device), resize_in_integers),
        ):
            short = resize_short_side(frames, view.frame_height, view.frame_width, resize)
            clip.append(crop_and_resize(short, view, size, resize))
            small.append(shrink(clip[-1], size - 7))
        assert clip[1].is_contiguous()
        assert torch.equal(clip[1].cpu(), clip[0]), view
        assert torch.equal(small[1].cpu(), small[0]), view


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_resize_of_any_sizes_equals_the_kernel(device: str) -> None:
    compare_resizes(np.random.default_rng(0), values=10_000_000, device=device)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_clips_of_drawn_views_equal_those_of_the_kernel(device: str) -> None:
    compare_clips(np.random.default_rng(1), clips=12, device=device)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("seed", [2, 3])
def test_resize_of_many_sizes_equals_the_kernel(seed: int, device: str) -> None:
    compare_resizes(np.random.default_rng(seed), values=200_000_000, device=device)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_clips_of_many_drawn_views_equal_those_of_the_kernel(device: str) -> None:
    compare_clips(np.random.default_rng(4), clips=400, device=device)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(
    ("pixels", "size", "expected"),
    [
        # Centres 0.5 and 2.5: halves round up.
        ([0, 1, 254, 255], 2, [1, 255]),
        # A quarter beyond the edge counts as the edge; then a quarter and three quarters of 8.
        ([0, 8], 4, [0, 2, 6, 8]),
        # Centres 1 and 4 are whole pixels.
        ([10, 20, 30, 40, 50, 60], 2, [20, 50]),
        ([7], 3, [7, 7, 7]),
    ],
    ids=["halved", "doubled", "third", "one pixel"],
)
def test_resize_of_known_pixels_matches_hand_values(
    pixels: list[int], size: int, expected: list[int], axis: int
) -> None:
    along = [1] * 4
    along[axis] = len(pixels)
    frames = torch.tensor(pixels, dtype=torch.uint8).view(along)
    out = resize_in_integers(frames, *((size, 1) if axis == 1 else (1, size)))
    assert out.dtype == torch.uint8
    assert out.flatten().tolist() == expected


def test_resize_in_parts_equals_resize_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = random_frames(np.random.default_rng(5), 7, 20, 30, 3)
    expected = resize_in_integers(frames, 13, 40)
    monkeypatch.setattr(integer_resize, "FRAMES_AT_ONCE", 3)
    assert torch.equal(resize_in_integers(frames, 13, 40), expected)


def test_resize_of_a_crop_equals_resize_of_its_copy() -> None:
    frames = random_frames(np.random.default_rng(6), 2, 40, 50, 3)
    crop = frames[:, 3:33, 7:40]
    assert torch.equal(resize_in_integers(crop, 24, 24), resize_in_integers(crop.clone(), 24, 24))
    assert resize_in_integers(crop, 30, 33) is crop


@pytest.mark.parametrize("old", [255, 256, 4095, 4096])
def test_weights_round_like_those_in_float64(old: int) -> None:
    # In one frame of one row, all sizes up to 4096; 255 and 0 in turns show every weight's bit.
    row = (torch.arange(old) % 2 * 255).to(torch.uint8).view(1, 1, old, 1).expand(1, 1, old, 3)
    for new in range(1, 4097, 61):
        assert torch.equal(resize_in_integers(row, 1, new), resize_bilinear(row, 1, new)), new
