"""What a student learns from: its own outputs against the teacher's stored ones.

Every loss takes tensors only, runs in float32 and states its divisor.
"""

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from common.distill.arrays import Grid
from common.distill.grid_projection import upsampling_matrix


def feature_mse(
    student_BTChw: Tensor, target_BTChw: Tensor, residual_B: Tensor | None, *, teacher_grid: Grid
) -> Tensor:
    """Mean squared difference of feature maps on the teacher's grid.

    Exactly the loss of up-sampling the student's map bilinearly and comparing it with the
    teacher's, from the teacher's map projected on the student's grid (grid_projection.py); a target
    that still has the teacher's grid is compared after up-sampling.

    Args:
        student_BTChw: Student's maps, any float dtype.
        target_BTChw: Stored maps, on the student's grid or on the teacher's; constants.
        residual_B: What the projection could not express, mean square per clip; None when the
            target has the teacher's grid. It moves the value, not the gradient.
        teacher_grid: Height and width of the teacher's map.

    Returns:
        0-d float32 tensor: the sum of squares over B * T * C * teacher cells.

    Raises:
        ValueError: If batch, frames, channels or grids do not fit each other.

    Source: ResKD (arXiv:2209.12797), feature term; weight 100 in the published recipes.
    """
    student_grid = (student_BTChw.shape[-2], student_BTChw.shape[-1])
    target_grid = (target_BTChw.shape[-2], target_BTChw.shape[-1])
    if student_BTChw.shape[:3] != target_BTChw.shape[:3] or target_grid not in (
        student_grid,
        teacher_grid,
    ):
        raise ValueError(
            f"student map {tuple(student_BTChw.shape)} and stored map {tuple(target_BTChw.shape)} "
            f"do not fit (teacher's grid {teacher_grid}); was the cache made for another student?"
        )
    student = student_BTChw.float().flatten(-2)
    target = target_BTChw.detach().float().flatten(-2)
    up = upsampling_matrix(student_grid, teacher_grid).to(student)
    with torch.autocast(student.device.type, enabled=False):  # it would multiply in bfloat16
        if student_grid == teacher_grid:
            difference = student - target
        elif target_grid == student_grid:
            difference = (student - target) @ up.T
        else:
            difference = student @ up.T - target
        loss = difference.square().mean()
    return loss if residual_B is None else loss + residual_B.float().mean()


def softened_kl(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """Average KL(teacher || student) over a batch, both softened.

    The factor temperature**2 undoes the shrinking of gradients, so that a weight keeps its meaning
    when the temperature is swept.

    Args:
        student_BK: Student's class scores, any float dtype.
        teacher_BK: Stored class scores, same shape; constants.
        temperature: Divisor of both, > 0.

    Returns:
        0-d float32 tensor, nats times temperature**2, divided by B; 0 when both agree.

    Raises:
        ValueError: If the shapes differ or the temperature is not positive.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """
    if student_BK.shape != teacher_BK.shape:
        raise ValueError(
            f"student {tuple(student_BK.shape)} and teacher {tuple(teacher_BK.shape)} class scores "
            "differ in shape; was the cache written for another class list?"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    log_student = log_softmax(student_BK.float() / temperature, dim=-1)
    log_teacher = log_softmax(teacher_BK.detach().float() / temperature, dim=-1)
    divergence: Tensor = kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
