"""Rows are filled exactly as planned, within the stated errors, and read back."""

from dataclasses import replace
from math import inf, isfinite

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reskd.common.distill.arrays import ArraySpec, Row, TargetPlan
from reskd.common.distill.encoding import decode_features, encode, encode_error
from reskd.common.distill.grid_projection import project
from reskd.common.distill.teacher import TeacherOutput
from reskd.common.errors import DataError
from reskd.common.video.preprocess import shrink

STEPS, CHANNELS, CLASSES, K = 2, 5, 6, 3
TEACHER_GRID = (3, 3)
FLOAT16_END = 65504.0


def plan_of(
    dtype: str = "float16", *, grid: tuple[int, int] = (2, 2), size: int = 24
) -> TargetPlan:
    """Every array: float16 with a dense logit map, int8 with a top-k one."""
    cells = (STEPS, *TEACHER_GRID)
    arrays = [
        ArraySpec(name="logits", row_shape=(CLASSES,), dtype="float16"),
        ArraySpec(name="features", row_shape=(STEPS, CHANNELS, *grid), dtype=dtype),
    ]
    if dtype == "int8":
        arrays.append(ArraySpec(name="feature_scale", row_shape=(CHANNELS,), dtype="float16"))
    arrays.append(ArraySpec(name="feature_residual", row_shape=(), dtype="float32"))
    if dtype == "float16":
        arrays.append(ArraySpec(name="logit_map", row_shape=(*cells, CLASSES), dtype="float16"))
    else:
        rest = {"temperature": 4.0}
        arrays += [
            ArraySpec(name="logit_map_ids", row_shape=(*cells, K), dtype="uint16"),
            ArraySpec(name="logit_map_values", row_shape=(*cells, K), dtype="float16"),
            ArraySpec(name="logit_map_rest", row_shape=cells, dtype="float16", attributes=rest),
        ]
    arrays += [
        ArraySpec(name="frames", row_shape=(STEPS, 3, size, size), dtype="uint8"),
        ArraySpec(name="views", row_shape=(STEPS + 8,), dtype="int32"),
    ]
    return TargetPlan(
        arrays=tuple(arrays), teacher_grid=TEACHER_GRID, feature_grid=grid, student_size=size
    )


def only(plan: TargetPlan, *names: str) -> TargetPlan:
    return replace(plan, arrays=tuple(array for array in plan.arrays if array.name in names))


def output_for(num_views: int, seed: int = 0) -> tuple[TeacherOutput, Tensor]:
    """A teacher's output for views of two 48 px frames, and the views."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(num_views, STEPS, CHANNELS, *TEACHER_GRID, generator=rng).relu()
    logit_map = torch.randn(num_views, STEPS, *TEACHER_GRID, CLASSES, generator=rng)
    clips = torch.randint(0, 256, (num_views, STEPS, 3, 48, 48), dtype=torch.uint8, generator=rng)
    logits = torch.randn(num_views, CLASSES, generator=rng)
    return TeacherOutput(features, logits, logit_map), clips


def encoded_maps(features: Tensor) -> dict[str, Row]:
    """int8 rows of maps kept on the teacher's grid."""
    plan = only(plan_of("int8", grid=TEACHER_GRID), "features", "feature_scale")
    return encode(plan, TeacherOutput(features, torch.empty(0)), torch.empty(0))


def tensors(rows: dict[str, Row]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(row) for name, row in rows.items()}


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("size", [24, 20, 48])
def test_encode_fills_exactly_the_planned_arrays(dtype: str, size: int) -> None:
    plan = plan_of(dtype, size=size)
    output, clips = output_for(3)
    rows = encode(plan, output, clips)
    found = [(name, row.shape, row.dtype.name) for name, row in rows.items()]
    assert found == [
        (array.name, (3, *array.row_shape), array.dtype)
        for array in plan.arrays
        if array.name != "views"
    ]
    np.testing.assert_array_equal(rows["logits"], output.logits_BK.half().numpy())
    np.testing.assert_array_equal(rows["frames"], shrink(clips, size).numpy())
    maps, residual = project(output.features_BTChw, plan.feature_grid)
    np.testing.assert_array_equal(rows["feature_residual"], residual.numpy())
    if dtype == "float16":
        assert output.logit_map_BThwK is not None
        np.testing.assert_array_equal(rows["features"], maps.half().numpy())
        np.testing.assert_array_equal(rows["logit_map"], output.logit_map_BThwK.half().numpy())


@pytest.mark.parametrize(
    "names",
    [
        ("logits",),
        ("features", "feature_scale"),
        ("feature_residual",),
        ("logit_map_ids", "logit_map_values", "logit_map_rest"),
        ("frames", "views"),
    ],
)
def test_encode_of_a_plan_cut_down_computes_only_its_arrays(names: tuple[str, ...]) -> None:
    plan = plan_of("int8")
    output, clips = output_for(2)
    whole = encode(plan, output, clips)
    # What the cut plan does not need is not even looked at: it could not be stored.
    bad = torch.full((1,), float("nan"))
    output = TeacherOutput(
        output.features_BTChw if names[0].startswith("feature") else bad,
        output.logits_BK if "logits" in names else bad,
        output.logit_map_BThwK if names[0].startswith("logit_map") else None,
    )
    rows = encode(only(plan, *names), output, clips if "frames" in names else bad)
    assert set(rows) == set(names) - {"views"}
    for name, row in rows.items():
        np.testing.assert_array_equal(row, whole[name])


def test_encode_of_frames_asks_no_teacher() -> None:
    _, clips = output_for(2)
    assert list(encode(only(plan_of(), "frames", "views"), None, clips)) == ["frames"]
    assert encode(only(plan_of(), "views"), None, clips) == {}
    with pytest.raises(AssertionError, match="needs the teacher's output"):
        encode(only(plan_of(), "logits"), None, clips)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_encode_of_a_clip_does_not_depend_on_the_clips_beside_it(dtype: str) -> None:
    plan, (output, clips) = plan_of(dtype), output_for(3)
    together = encode(plan, output, clips)
    one = [tensor[1:2] for tensor in output if tensor is not None]
    alone = encode(plan, TeacherOutput(*one), clips[1:2])
    for name, row in alone.items():
        # A number on the edge between two int8 steps may fall to either side.
        np.testing.assert_allclose(
            row[0], together[name][1], rtol=1e-3, atol=row.dtype == np.int8, err_msg=name
        )


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), magnitude=st.floats(-9, 6), spread=st.floats(0, 4))
def test_int8_is_off_by_at_most_half_its_scale(seed: int, magnitude: float, spread: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    shape = (2, STEPS, CHANNELS, *TEACHER_GRID)
    # Channels of very different size, the smallest among numbers that float16 hardly tells apart.
    sizes = 10 ** (magnitude - spread * torch.rand(2, 1, CHANNELS, 1, 1, generator=rng))
    features = torch.randn(shape, generator=rng) * sizes
    rows = encoded_maps(features)
    decoded = decode_features(tensors(rows)).double()
    scale = torch.from_numpy(rows["feature_scale"]).double()[:, None, :, None, None]
    assert ((decoded - features.double()).abs() <= scale / 2).all()
    assert (features.abs().amax((1, 3, 4), keepdim=True) <= 127 * scale).all()
    assert np.abs(rows["features"].astype(int)).max() <= 127
    for clip in range(2):
        row = {name: whole[clip] for name, whole in rows.items()}
        error = (decoded[clip] - features[clip]).norm() / features[clip].double().norm()
        assert error <= encode_error("features", row) or not decoded[clip].any()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), magnitude=st.floats(-9, 6))
def test_int8_scale_is_the_next_float16_above_and_within_its_bound(
    seed: int, magnitude: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = 10**magnitude * torch.randn(1, STEPS, CHANNELS, *TEACHER_GRID, generator=rng)
    exact = features.abs().amax((1, 3, 4))[0].double().numpy() / 127
    scale = encoded_maps(features)["feature_scale"][0]
    assert (scale >= exact).all()
    below = np.nextafter(scale, np.float16(0)).astype(np.float64)
    assert (below < exact).all()
    error = np.linalg.norm(scale - exact) / np.linalg.norm(exact)
    assert error <= encode_error("feature_scale", {"feature_scale": scale})


def test_int8_rounds_halves_to_even_with_the_rounded_scale() -> None:
    features = torch.zeros(1, STEPS, CHANNELS, *TEACHER_GRID)
    numbers = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 0.75, -127.0])
    features[0, 1, 2] = numbers.view(3, 3)
    rows = encoded_maps(features)
    assert rows["feature_scale"][0, 2] == 1
    assert rows["features"][0, 1, 2].ravel().tolist() == [127, 0, 2, 2, 0, -2, -126, 1, -127]


def test_int8_of_a_channel_of_zeros_is_zero_and_no_nan() -> None:
    features = torch.randn(2, STEPS, CHANNELS, *TEACHER_GRID)
    features[1, :, 3] = 0
    rows = encoded_maps(features)
    assert rows["feature_scale"][1, 3] == 0
    assert (rows["feature_scale"] == 0).sum() == 1
    decoded = decode_features(tensors(rows))
    assert torch.isfinite(decoded).all()
    assert torch.equal(decoded[1, :, 3], torch.zeros(STEPS, *TEACHER_GRID))


def test_int8_scale_spans_the_frames_and_places_of_one_clip_and_channel() -> None:
    features = torch.full((2, STEPS, CHANNELS, *TEACHER_GRID), 0.001)
    features[0, 1, 2, 0, 0] = -127.0
    scale = encoded_maps(features)["feature_scale"]
    assert scale[0, 2] == 1
    assert np.delete(scale.ravel(), 2).astype(np.float64).max() < 1e-5


@pytest.mark.parametrize("value", [1e7, -1e7, float("nan"), float("inf")])
def test_int8_of_what_its_scale_cannot_hold_is_refused(value: float) -> None:
    features = torch.randn(1, STEPS, CHANNELS, *TEACHER_GRID)
    features[0, 1, 2, 0, 0] = value
    with pytest.raises(DataError, match=r"The teacher's features reach .*8\.3e6"):
        encoded_maps(features)


def test_int8_of_the_largest_that_its_scale_can_hold_is_kept() -> None:
    features = torch.full((1, STEPS, CHANNELS, *TEACHER_GRID), 127 * FLOAT16_END)
    rows = encoded_maps(features)
    assert (rows["feature_scale"] == FLOAT16_END).all()
    assert torch.equal(decode_features(tensors(rows)), features)


@pytest.mark.parametrize("name", ["logits", "features", "logit map"])
@pytest.mark.parametrize("value", [7e4, -7e4, float("nan"), float("inf")])
def test_encode_of_what_float16_cannot_hold_is_refused(name: str, value: float) -> None:
    output, clips = output_for(1)
    kept = dict(zip(("features", "logits", "logit map"), output, strict=True))[name]
    assert kept is not None
    kept.view(-1)[3] = value
    with pytest.raises(DataError, match=f"The teacher's {name} reach .*65504") as caught:
        encode(plan_of(grid=TEACHER_GRID), output, clips)
    # A number that is only too large to be stored came out of the network whole.
    assert ("teacher.precision" in str(caught.value)) is not isfinite(value)


@pytest.mark.parametrize("value", [7e4, float("nan"), float("inf"), -float("inf")])
def test_top_k_map_of_what_it_cannot_hold_is_refused(value: float) -> None:
    output, clips = output_for(1)
    assert output.logit_map_BThwK is not None
    output.logit_map_BThwK.view(-1)[3] = value
    with pytest.raises(DataError, match="The teacher's logit map reach"):
        encode(plan_of("int8"), output, clips)


def test_encode_of_the_largest_float16_is_kept() -> None:
    output, clips = output_for(1)
    output.logits_BK[0, 3] = FLOAT16_END
    assert encode(plan_of(), output, clips)["logits"][0, 3] == FLOAT16_END


def test_top_k_map_has_the_best_classes_and_the_mass_of_the_others() -> None:
    output, clips = output_for(2)
    assert output.logit_map_BThwK is not None
    rows = encode(plan_of("int8"), output, clips)
    dense = output.logit_map_BThwK.double().numpy()
    order = np.argsort(-dense, axis=-1)
    ranked = np.take_along_axis(dense, order, axis=-1)
    np.testing.assert_array_equal(rows["logit_map_ids"], order[..., :K])
    np.testing.assert_array_equal(rows["logit_map_values"], ranked[..., :K].astype(np.float16))
    rest = np.log(np.exp(ranked[..., K:] / 4.0).sum(-1))
    found = rows["logit_map_rest"].astype(np.float64)
    np.testing.assert_allclose(found, rest, rtol=2**-11, atol=1e-6)


def test_encode_of_a_logit_map_that_was_not_asked_for_says_how_to() -> None:
    output, clips = output_for(1)
    with pytest.raises(AssertionError, match="logit_map=True"):
        encode(plan_of(), output._replace(logit_map_BThwK=None), clips)


def test_decode_of_float16_is_the_numbers_themselves() -> None:
    stored = torch.randn(2, STEPS, CHANNELS, 2, 2).half()
    decoded = decode_features({"features": stored})
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded.half(), stored)


def test_decode_stays_on_the_device_of_the_stored_maps() -> None:
    stored = {
        "features": torch.empty(2, STEPS, CHANNELS, 2, 2, dtype=torch.int8, device="meta"),
        "feature_scale": torch.empty(2, CHANNELS, dtype=torch.float16, device="meta"),
    }
    decoded = decode_features(stored)
    assert (decoded.device.type, decoded.dtype) == ("meta", torch.float32)


def test_decode_of_int8_without_its_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="need feature_scale"):
        decode_features({"features": torch.zeros(1, 1, 1, 2, 2, dtype=torch.int8)})


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 999), magnitude=st.floats(-9, 4))
@pytest.mark.parametrize("name", ["logits", "features", "logit_map"])
def test_float16_is_within_the_bound_down_to_subnormal_numbers(
    name: str, seed: int, magnitude: float
) -> None:
    rng = np.random.default_rng(seed)
    exact = 10**magnitude * rng.standard_normal(50).astype(np.float32).astype(np.float64)
    stored = exact.astype(np.float16)
    error = np.linalg.norm(stored - exact) / np.linalg.norm(exact)
    bound = encode_error(name, {name: stored})
    assert error <= bound or not stored.any()
    if magnitude > -2:
        assert bound == pytest.approx(2**-11, rel=0.01)


def test_encode_error_of_exact_arrays_and_of_zeros_is_zero() -> None:
    whole: dict[str, Row] = {
        "frames": np.full((2, 3, 4, 4), 7, np.uint8),
        "views": np.arange(10, dtype=np.int32),
        "logit_map_ids": np.ones((2, 3, 3, 2), np.uint16),
        "logits": np.zeros(5, np.float16),
        "features": np.zeros((2, 3, 2, 2), np.int8),
        "feature_scale": np.zeros(3, np.float16),
    }
    assert {encode_error(name, whole) for name in whole} == {0.0}


def test_encode_error_of_a_row_of_nothing_but_rounding_is_no_bound() -> None:
    smallest = np.full(5, 2.0**-24, np.float16)
    assert encode_error("feature_scale", {"feature_scale": smallest}) == inf
