"""Preprocessing v1: equal to integer arithmetic written out in numpy, so equal on every machine."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from reskd.common.video.preprocess import (
    IMAGENET,
    Colours,
    apply,
    crop_and_resize,
    normalize,
    renormalize,
    resize_short_side,
    shrink,
)
from reskd.common.video.views import ViewParams

VIEW = ViewParams(
    frame_indices=(0, 5),
    top=3,
    left=7,
    height=24,
    width=20,
    flip=False,
    frame_height=32,
    frame_width=43,
)


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(pixels)


def resized_axis(pixels: NDArray[np.uint8], size: int, axis: int) -> NDArray[np.uint8]:
    """Bilinear resize of one axis in fixed-point integers: what preprocessing v1 is."""
    old = pixels.shape[axis]
    if old == size:
        return pixels
    centres = np.maximum((np.arange(size) + 0.5) * (old / size) - 0.5, 0)
    first = np.minimum(centres.astype(np.int64), old - 1)
    second = np.minimum(first + 1, old - 1)
    share = np.clip(centres - first, 0, 1)
    # As many bits as let the largest weight of the axis stay below 2**15.
    largest = np.where(second == first, 1, np.maximum(share, 1 - share)).max()
    bits = 14 if int(0.5 + largest * 2**15) >= 2**15 else 15
    along = [1] * pixels.ndim
    along[axis] = size
    weights = [(w * 2**bits + 0.5).astype(np.int64).reshape(along) for w in (1 - share, share)]
    sums = np.take(pixels, first, axis) * weights[0] + np.take(pixels, second, axis) * weights[1]
    rounded: NDArray[np.int64] = (sums + 2 ** (bits - 1)) >> bits
    return rounded.clip(0, 255).astype(np.uint8)


def resized(frames_THWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return resized_axis(resized_axis(frames_THWC, width, 2), height, 1)


def bilinear_float(frames_THWC: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear resize without any rounding."""
    out = frames_THWC.astype(np.float64)
    for axis, size in ((1, height), (2, width)):
        old = out.shape[axis]
        centres = ((np.arange(size) + 0.5) * (old / size) - 0.5).clip(0, old - 1)
        first = centres.astype(np.int64)
        second = np.minimum(first + 1, old - 1)
        along = [1] * out.ndim
        along[axis] = size
        share = (centres - first).reshape(along)
        out = np.take(out, first, axis) * (1 - share) + np.take(out, second, axis) * share
    return out


@settings(deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 90)] * 4),
    seed=st.integers(0, 99),
    black_and_white=st.booleans(),
)
def test_resize_of_any_frames_equals_integer_arithmetic(
    sides: tuple[int, int, int, int], seed: int, black_and_white: bool
) -> None:
    old_height, old_width, height, width = sides
    pixels = random_frames(2, old_height, old_width, 3, seed=seed)
    if black_and_white:
        pixels = (pixels > 127).to(torch.uint8) * 255
    out = resize_short_side(pixels, height, width).numpy()
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, resized(pixels.numpy(), height, width))
    # Two roundings of half a level each, and the last bit of the weights.
    assert np.abs(out - bilinear_float(pixels.numpy(), height, width)).max() <= 1.02


@pytest.mark.parametrize("size", [224, 112])
def test_apply_of_full_size_view_equals_integer_arithmetic(size: int) -> None:
    frames = random_frames(2, 240, 320, 3)
    view = ViewParams(
        frame_indices=(4, 9),
        top=16,
        left=37,
        height=224,
        width=192,
        flip=True,
        frame_height=256,
        frame_width=341,
    )
    crop = resized(frames.numpy(), 256, 341)[:, 16:240, 37:229]
    expected = resized(crop, size, size)[:, :, ::-1].transpose(0, 3, 1, 2)
    out = apply(frames, view, size)
    assert out.is_contiguous()
    np.testing.assert_array_equal(out.numpy(), expected)


def test_apply_equals_its_two_halves() -> None:
    frames = random_frames(2, 48, 64, 3)
    small = resize_short_side(frames, VIEW.frame_height, VIEW.frame_width)
    assert torch.equal(apply(frames, VIEW, 16), crop_and_resize(small, VIEW, 16))


def test_resize_short_side_of_a_frame_does_not_depend_on_the_others() -> None:
    # Views share frames: the union is resized once and each view takes its own.
    frames = random_frames(5, 48, 64, 3)
    together = resize_short_side(frames, 32, 43)
    alone = torch.cat([resize_short_side(frame[None], 32, 43) for frame in frames])
    assert torch.equal(together, alone)


def test_resize_does_not_depend_on_memory_layout() -> None:
    frames = random_frames(2, 48, 64, 3)
    planes = frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    window = random_frames(2, 60, 90, 3)
    window[:, 6:54, 10:74] = frames
    expected = resize_short_side(frames, 32, 43)
    assert torch.equal(resize_short_side(planes, 32, 43), expected)
    assert torch.equal(resize_short_side(window[:, 6:54, 10:74], 32, 43), expected)


def test_apply_at_equal_sizes_only_crops() -> None:
    frames = random_frames(2, 32, 43, 3)
    view = replace(VIEW, height=20)
    assert resize_short_side(frames, 32, 43) is frames
    expected = frames[:, 3:23, 7:27].permute(0, 3, 1, 2)
    assert torch.equal(apply(frames, view, 20), expected)


def test_apply_with_flip_mirrors_the_same_crop() -> None:
    frames = random_frames(2, 48, 64, 3)
    mirrored = apply(frames, replace(VIEW, flip=True), 16)
    assert torch.equal(mirrored, apply(frames, VIEW, 16).flip(-1))


def test_shrink_to_half_matches_hand_values() -> None:
    # Sums 1, 2, 1020 and 6: a quarter rounds down, halves round up.
    block = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 0], [255, 255, 0, 1], [255, 255, 2, 3]])
    frames = block.to(torch.uint8).expand(1, 3, 4, 4)
    assert shrink(frames, 2)[0, 0].tolist() == [[0, 1], [255, 2]]


@pytest.mark.parametrize("shape", [(5, 3, 12, 12), (2, 5, 3, 12, 12)])
def test_shrink_to_half_is_the_integer_mean(shape: tuple[int, ...]) -> None:
    frames = random_frames(*shape)
    x = frames.to(torch.int64)
    total = x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
    out = shrink(frames, 6)
    assert out.dtype == torch.uint8
    assert torch.equal(out.to(torch.int64), (total + 2) >> 2)


def test_shrink_to_equal_size_is_the_same_tensor() -> None:
    frames = random_frames(2, 3, 12, 12)
    assert shrink(frames, 12) is frames


@pytest.mark.parametrize("size", [1, 5, 7, 11])
def test_shrink_to_other_size_equals_integer_arithmetic(size: int) -> None:
    frames = random_frames(2, 4, 3, 12, 12)
    flat = frames.reshape(8, 3, 12, 12).numpy().transpose(0, 2, 3, 1)
    expected = resized(flat, size, size).transpose(0, 3, 1, 2).reshape(2, 4, 3, size, size)
    out = shrink(frames, size)
    assert out.is_contiguous()
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("size", [112, 96])
def test_student_frames_stored_and_replayed_are_bit_equal(size: int) -> None:
    decoded = random_frames(3, 60, 80, 3)
    view = replace(VIEW, frame_indices=(2, 0, 2), flip=True)
    picked = decoded[[2, 0, 2]]
    # Stage one resizes the union of all views' frames and stores rows of several views.
    union = resize_short_side(decoded, view.frame_height, view.frame_width)
    teacher = torch.stack([crop_and_resize(union[[2, 0, 2]], view, 224)] * 2)
    stored = shrink(teacher, size)[1]
    # Stage two reads the view's row and decodes for it alone.
    again = ViewParams.from_row(view.to_row())
    assert torch.equal(shrink(apply(picked, again, 224), size), stored)


@pytest.mark.slow
def test_resize_without_vector_instructions_equals_integer_arithmetic() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "equals_integer", "-m", "not slow", __file__],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_normalize_of_known_pixels_matches_hand_values() -> None:
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1).expand(2, 4, 3, 5, 5)
    out = normalize(frames, IMAGENET)
    assert out.dtype == torch.float32
    assert out.shape == frames.shape
    expected = [-123.675 / 58.395, (128 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    np.testing.assert_allclose(out[1, 3, :, 4, 4].numpy(), expected, rtol=1e-6)


def test_colours_in_grey_levels_are_those_of_the_reference() -> None:
    assert IMAGENET.grey_levels() == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def test_clips_with_the_colours_of_imagenet_become_those_of_another_network() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), np.uint8))
    half = Colours(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 1.0))
    found = renormalize(normalize(frames, IMAGENET), half)
    torch.testing.assert_close(found, normalize(frames, half))
    clips = normalize(frames, IMAGENET)
    assert renormalize(clips, IMAGENET) is clips


def test_normalize_leaves_its_input_alone() -> None:
    frames = random_frames(3, 4, 4)
    before = frames.clone()
    normalize(frames, IMAGENET)
    assert torch.equal(frames, before)


def test_crop_and_resize_of_other_frames_names_both() -> None:
    with pytest.raises(ValueError, match="2 frames of 32x43 pixels, got 3 of 32x43"):
        crop_and_resize(random_frames(3, 32, 43, 3), VIEW, 16)
    with pytest.raises(ValueError, match="2 frames of 32x43 pixels, got 2 of 43x32"):
        crop_and_resize(random_frames(2, 43, 32, 3), VIEW, 16)


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(2, 8, 8, 3),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(0, 8, 8, 3, dtype=torch.uint8),
    ],
    ids=["float32", "channels first", "one frame", "no frame"],
)
def test_resize_short_side_of_wrong_frames_is_refused(frames: Tensor) -> None:
    with pytest.raises(ValueError, match="frames must be uint8"):
        resize_short_side(frames, 4, 4)


def test_resize_on_another_device_stays_there() -> None:
    # Where torch's uint8 kernel does not exist; test_integer_resize.py compares the pixels.
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8, device="meta")
    for out in (resize_short_side(frames, 4, 5), shrink(frames.permute(0, 3, 1, 2), 3)):
        assert (out.device.type, out.dtype) == ("meta", torch.uint8)


@pytest.mark.parametrize(
    ("frames", "size", "message"),
    [
        (torch.zeros(3, 8, 8), 4, "uint8"),
        (torch.zeros(3, 8, 6, dtype=torch.uint8), 3, "square"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 9, "side 8 cannot be shrunk to side 9"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), 0, "side 0"),
    ],
)
def test_shrink_of_wrong_frames_is_refused(frames: Tensor, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shrink(frames, size)


@pytest.mark.parametrize("frames", [torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_normalize_of_wrong_frames_is_refused(frames: Tensor) -> None:
    with pytest.raises(ValueError, match="normalize needs uint8"):
        normalize(frames, IMAGENET)
