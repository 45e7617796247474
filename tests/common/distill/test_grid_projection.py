"""A projected teacher map gives the loss and the gradient of the map itself."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from reskd.common.distill.arrays import Grid
from reskd.common.distill.grid_projection import project, triangular_factor, upsampling_matrix

Shape = tuple[int, int, int]
GRIDS: list[tuple[Grid, Grid]] = [
    ((4, 4), (7, 7)),  # 112 of 224 px
    ((3, 3), (7, 7)),
    ((5, 5), (7, 7)),
    ((4, 4), (8, 8)),
    ((1, 1), (7, 7)),
    ((2, 4), (3, 7)),
]

pairs_of_grids = st.tuples(
    *[st.integers(1, 8).flatmap(lambda large: st.tuples(st.integers(1, large), st.just(large)))] * 2
).map(lambda sides: ((sides[0][0], sides[1][0]), (sides[0][1], sides[1][1])))
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))


def random_maps(shape: Shape, grid: Grid, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, *grid, dtype=torch.float64, generator=generator)


def direct_loss(student_BTChw: Tensor, teacher_BTChw: Tensor) -> Tensor:
    """What the reference computes: up-sample the student's map, compare with the teacher's."""
    grid = teacher_BTChw.shape[-2:]
    upsampled = interpolate(student_BTChw.flatten(0, 1), size=grid, mode="bilinear")
    return (upsampled - teacher_BTChw.flatten(0, 1)).square().mean()


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, student)
    return found


@settings(deadline=None, max_examples=60)
@given(grids=pairs_of_grids, seed=st.integers(0, 99))
def test_upsampling_matrix_of_any_grids_equals_interpolate(
    grids: tuple[Grid, Grid], seed: int
) -> None:
    source, target = grids
    maps = random_maps((1, 2, 3), source, seed)
    expected = interpolate(maps[0], size=target, mode="bilinear", align_corners=False)
    found = (maps[0].flatten(-2) @ upsampling_matrix(source, target).T).view_as(expected)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_upsampling_matrix_of_112_px_student_has_full_column_rank() -> None:
    matrix = upsampling_matrix((4, 4), (7, 7))
    assert matrix.shape == (49, 16)
    assert torch.linalg.matrix_rank(matrix) == 16
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(49, dtype=torch.float64))


def test_upsampling_matrix_first_asked_for_on_another_device_is_on_the_cpu() -> None:
    upsampling_matrix.cache_clear()
    with torch.device("meta"):
        assert upsampling_matrix((2, 2), (3, 3)).device.type == "cpu"


@settings(deadline=None, max_examples=40)
@given(grids=pairs_of_grids, seed=st.integers(0, 99))
def test_triangular_factor_keeps_every_length_with_fewer_numbers(
    grids: tuple[Grid, Grid], seed: int
) -> None:
    source, target = grids
    maps = random_maps((1, 2, 3), source, seed).flatten(-2)
    up, factor = upsampling_matrix(source, target), triangular_factor(source, target)
    assert factor.shape == (source[0] * source[1],) * 2
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor, up.T @ up, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((maps @ factor.T).norm(dim=-1), (maps @ up.T).norm(dim=-1))


@settings(deadline=None, max_examples=80)
@given(grids=pairs_of_grids, shape=shapes, seed=st.integers(0, 99))
def test_projection_gives_the_loss_and_gradient_of_direct_upsampling(
    grids: tuple[Grid, Grid], shape: Shape, seed: int
) -> None:
    student_grid, teacher_grid = grids
    teacher = random_maps(shape, teacher_grid, seed)
    student = random_maps(shape, student_grid, seed + 100).requires_grad_()
    projected, residual = project(teacher, student_grid)
    assert projected.shape == (*shape, *student_grid)
    assert residual.shape == shape[:1]
    zeros = torch.zeros(*shape, *teacher_grid, dtype=torch.float64)
    expected = direct_loss(student, teacher)
    found = direct_loss(student - projected, zeros) + residual.mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    expected_gradient, found_gradient = gradient(expected, student), gradient(found, student)
    error = (found_gradient - expected_gradient).norm() / expected_gradient.norm()
    assert error <= 1e-12


@pytest.mark.parametrize(("student_grid", "teacher_grid"), GRIDS)
def test_residual_is_the_mean_square_that_no_student_can_reach(
    student_grid: Grid, teacher_grid: Grid
) -> None:
    teacher = random_maps((3, 2, 4), teacher_grid)
    projected, residual = project(teacher, student_grid)
    for clip in range(3):
        one = slice(clip, clip + 1)
        best = direct_loss(projected[one], teacher[one])
        assert residual[clip].item() == pytest.approx(best.item(), rel=1e-12)
        other = projected[one] + 1e-3 * random_maps((1, 2, 4), student_grid, seed=clip + 1)
        assert direct_loss(other, teacher[one]) > best


def test_projection_of_a_map_that_was_upsampled_gives_back_the_small_map() -> None:
    small = random_maps((2, 3, 4), (4, 4))
    large = interpolate(small.flatten(0, 1), size=(7, 7), mode="bilinear").unflatten(0, (2, 3))
    projected, residual = project(large, (4, 4))
    torch.testing.assert_close(projected, small, rtol=1e-12, atol=1e-12)
    assert residual.max() < 1e-24


def test_projection_on_equal_grids_is_the_map_itself() -> None:
    teacher = random_maps((2, 3, 4), (7, 7))
    projected, residual = project(teacher, (7, 7))
    assert torch.equal(projected, teacher)
    assert torch.equal(residual, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("student_grid", [(8, 8), (8, 4), (4, 8)])
def test_projection_on_a_larger_grid_is_refused(student_grid: Grid) -> None:
    with pytest.raises(ValueError, match=r"larger than the teacher's \(7, 7\)"):
        project(random_maps((1, 1, 1), (7, 7)), student_grid)


def test_projection_of_float32_stays_float32_and_near_the_exact_one() -> None:
    teacher = random_maps((2, 3, 8), (7, 7))
    exact, exact_residual = project(teacher, (4, 4))
    projected, residual = project(teacher.float(), (4, 4))
    assert projected.dtype == residual.dtype == torch.float32
    torch.testing.assert_close(projected.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(residual.double(), exact_residual, rtol=1e-5, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_projection_stored_as_float16_gives_nearly_the_gradient(seed: int) -> None:
    # Maps after a ReLU: half of the values are zero, the rest of the size of one.
    teacher = random_maps((4, 8, 64), (7, 7), seed).relu()
    student = random_maps((4, 8, 64), (4, 4), seed + 100).relu().requires_grad_()
    stored = project(teacher.float(), (4, 4))[0].half().double()
    zeros = torch.zeros_like(teacher)
    expected = gradient(direct_loss(student, teacher), student)
    found = gradient(direct_loss(student - stored, zeros), student)
    error = (found - expected).norm() / expected.norm()
    assert 1e-6 < error <= 5e-4


class _Products(TorchDispatchMode):
    """Notes in which precision float32 numbers are multiplied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.precisions: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mm" in func.__name__:
            self.precisions.append(torch.get_float32_matmul_precision())
        return func(*args, **kwargs or {})


def test_projection_is_never_rounded_to_tf32() -> None:
    before = torch.get_float32_matmul_precision()
    project(torch.rand(1, 2, 3, 7, 7), (4, 4))  # makes its matrices
    torch.set_float32_matmul_precision("high")
    try:
        with _Products() as products:
            project(torch.rand(1, 2, 3, 7, 7), (4, 4))
    finally:
        torch.set_float32_matmul_precision(before)
    assert products.precisions == ["highest", "highest"]
