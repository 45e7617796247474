"""The teacher's feature map on the student's grid, without changing the loss.

The reference up-samples the student's map s (4x4 at 112 px) bilinearly to the teacher's grid (7x7)
and takes the mean squared difference to the teacher's map t. Up-sampling is a matrix U (49 x 16)
of full column rank, so with p = pinv(U) t

    mean((U s - t)^2) = mean((U (s - p))^2) + r,    r = mean((t - U p)^2),

because t - U p is orthogonal to everything U can produce. The gradient for s is the same too.
p has 16 numbers where t had 49, and r is one number per clip.

Source of the loss: ResKD reference (rkd.py, rkd_2d_head.py); bilinear with align_corners=False.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reskd.common.devices import repeatable_arithmetic
from reskd.common.distill.arrays import Grid


@lru_cache
def upsampling_matrix(source: Grid, target: Grid) -> Tensor:
    """U, such that U s is the bilinear up-sampling of a flattened map s.

    Args:
        source: Height and width of the small map.
        target: Height and width of the large map.

    Returns:
        (target cells, source cells), float64 on the CPU. Shared between callers: do not change it.
    """
    cells = source[0] * source[1]
    basis = torch.eye(cells, dtype=torch.float64, device="cpu").view(cells, 1, *source)
    columns = interpolate(basis, size=target, mode="bilinear", align_corners=False)
    return columns.flatten(1).T.contiguous()


@lru_cache
def triangular_factor(source: Grid, target: Grid) -> Tensor:
    """R of U = QR, so that ||U d|| = ||R d|| for every d, with fewer numbers than U has.

    Args:
        source: Height and width of the small map.
        target: Height and width of the large map.

    Returns:
        (n, source cells), n the smaller number of cells (16 of 49 for 4x4 on 7x7), float64 on the
        CPU. Shared between callers: do not change it.
    """
    factor: Tensor = torch.linalg.qr(upsampling_matrix(source, target), mode="r").R
    return factor


@lru_cache
def pseudo_inverse(source: Grid, target: Grid) -> Tensor:
    """pinv(U), which takes a large map to the small one that comes nearest to it.

    Args:
        source: Height and width of the small map.
        target: Height and width of the large map.

    Returns:
        (source cells, target cells), float64 on the CPU. Shared between callers: do not change it.
    """
    inverse: Tensor = torch.linalg.pinv(upsampling_matrix(source, target))
    return inverse


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def upsampling_on(source: Grid, target: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`upsampling_matrix` where it is needed, made there once: a GPU is waited for while it is."""
    return _on(upsampling_matrix, source, target, device, dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def triangular_on(source: Grid, target: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`triangular_factor` where it is needed, as `upsampling_on`."""
    return _on(triangular_factor, source, target, device, dtype)


@lru_cache
def _on(
    make: Callable[[Grid, Grid], Tensor],
    source: Grid,
    target: Grid,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    with torch.inference_mode(mode=False):  # what is kept may be needed where gradients flow
        return make(source, target).to(device, dtype)


def mean_of_steps(features_BTChw: Tensor, steps: int) -> Tensor:
    """The mean of every so many neighbouring time steps, (B, T / steps, C, h, w)."""
    if steps == 1:
        return features_BTChw
    mean: Tensor = features_BTChw.unflatten(1, (-1, steps)).mean(2)
    return mean


def project(features_BTChw: Tensor, student_grid: Grid) -> tuple[Tensor, Tensor]:
    """Least-squares pre-image of teacher maps on the student's grid.

    Args:
        features_BTChw: Teacher's maps, (B, T, C, h, w), float32 or float64.
        student_grid: Height and width of the student's map, neither larger than the teacher's.

    Returns:
        The maps p, (B, T, C, *student_grid), and the residuals r, (B,), mean square per element of
        the teacher's map. Same dtype as the input; exact up to its rounding.

    Raises:
        ValueError: If the student's grid is the larger one: p would not be unique.
    """
    teacher_grid = (features_BTChw.shape[-2], features_BTChw.shape[-1])
    if student_grid[0] > teacher_grid[0] or student_grid[1] > teacher_grid[1]:
        raise ValueError(
            f"the student's grid {student_grid} is larger than the teacher's {teacher_grid}; "
            "give the student smaller frames or store targets.features.grid: teacher"
        )
    if student_grid == teacher_grid:
        return features_BTChw, features_BTChw.new_zeros(features_BTChw.shape[0])
    # In one order in memory, on which the last bits would depend: networks give many.
    flat = features_BTChw.contiguous().flatten(-2)
    grids = student_grid, teacher_grid
    inverse = _on(pseudo_inverse, *grids, flat.device, flat.dtype)
    up = upsampling_on(*grids, flat.device, flat.dtype)
    with repeatable_arithmetic():  # rounded to TF32 the difference would be that of roundings
        projected = flat @ inverse.T
        residual = (flat - projected @ up.T).square().flatten(1).mean(1)
    return projected.unflatten(-1, student_grid), residual
