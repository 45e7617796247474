"""The feature loss over the variance of the teacher's map, from every form a map is stored in."""

import pytest
import torch
from torch import Tensor

from reskd.common.distill.grid_projection import project
from reskd.common.distill.losses import feature_mse, feature_mse_normalised
from tests.common.distill.test_losses import direct, maps

GRID = (7, 7)


def test_normalised_loss_of_single_cells_equals_the_hand_value() -> None:
    # Of (1, 2, 3, 5) the mean is 2.75 and the variance 2.1875; 3 is off by squares 4, 1, 0, 4.
    student = torch.full((1, 1, 1, 1, 1), 3.0)
    teacher = torch.tensor([1.0, 2.0, 3.0, 5.0]).view(1, 1, 1, 2, 2)
    expected = (9 / 4) / 2.1875
    found = feature_mse_normalised(student, teacher, None, teacher_grid=(2, 2))
    assert found.item() == pytest.approx(expected)
    stored = project(teacher, (1, 1))
    found = feature_mse_normalised(student, *stored, teacher_grid=(2, 2))
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("student_grid", [(4, 4), (3, 5), (7, 7)])
def test_normalised_loss_from_a_projection_is_that_of_the_whole_map(
    student_grid: tuple[int, int],
) -> None:
    student, teacher = maps(student_grid, 0, torch.float64), maps(GRID, 1, torch.float64) + 2
    expected = torch.stack(
        [
            direct(one[None], other[None]) / other.var(correction=0)
            for one, other in zip(student, teacher, strict=True)
        ]
    ).mean()
    for stored in ((teacher, None), project(teacher, student_grid)):
        found = feature_mse_normalised(student, *stored, teacher_grid=GRID)
        torch.testing.assert_close(found, expected)


def test_best_constant_scores_one_whatever_the_scale() -> None:
    teacher = maps(GRID, 1, torch.float64)
    means = teacher.mean(dim=(1, 2, 3, 4), keepdim=True)
    for scale in (1e-3, 1.0, 1e3):
        student = (means * scale).expand(*teacher.shape[:3], 4, 4)
        found = feature_mse_normalised(student, teacher * scale, None, teacher_grid=GRID)
        assert found.item() == pytest.approx(1)


def test_normalised_loss_has_the_gradient_of_the_plain_one_over_the_variance() -> None:
    student = maps((4, 4), 0, torch.float64)[:1].requires_grad_()
    teacher = maps(GRID, 1, torch.float64)[:1]

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, student)[0]

    stored = project(teacher, (4, 4))
    found = gradient(feature_mse_normalised(student, *stored, teacher_grid=GRID))
    expected = gradient(feature_mse(student, *stored, teacher_grid=GRID))
    torch.testing.assert_close(found, expected / teacher.var(correction=0))


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_clip_without_variance_counts_as_zero(value: float) -> None:
    student, teacher = maps((4, 4)), maps(GRID, 1)
    teacher[0] = value
    found = feature_mse_normalised(student, *project(teacher, (4, 4)), teacher_grid=GRID)
    alone = feature_mse_normalised(student[1:], *project(teacher[1:], (4, 4)), teacher_grid=GRID)
    assert found.item() == pytest.approx(alone.item() / 2, rel=1e-5)
