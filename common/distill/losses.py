"""What a network learns from: the teacher's stored outputs, and labels.

Every loss states its divisor. It runs in float32 whatever the type of stored targets and under
autocast too, and those on stored outputs in float64 where the student's outputs have that type.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, log_softmax

from reskd.common.distill.arrays import Grid
from reskd.common.distill.grid_projection import triangular_on, upsampling_on
from reskd.common.errors import ExperimentError
from reskd.common.experiment import LabelSpec

NO_VARIANCE: Final = 1e-6
"""Share of its mean square that a map's variance must exceed; a float32 rounds by a tenth of it."""


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
        0-d tensor: the sum of squares over B * T * C * teacher cells. On the student's grid it is
        taken of R d instead of U d (triangular_factor), which is as long and has fewer numbers.

    Raises:
        ValueError: If batch, frames, channels or grids do not fit each other.

    Source: ResKD (arXiv:2209.12797), feature term; weight 100 in the published recipes.
    """
    difference, scale = _difference(student_BTChw, target_BTChw, teacher_grid)
    loss = difference.square().mean() * scale
    return loss if residual_B is None else loss + residual_B.detach().to(loss.dtype).mean()


def feature_mse_normalised(
    student_BTChw: Tensor, target_BTChw: Tensor, residual_B: Tensor | None, *, teacher_grid: Grid
) -> Tensor:
    """`feature_mse` of each clip over the variance of the teacher's map of it.

    The variance is that of all T * C * h * w numbers of the teacher's own map, about their mean. A
    projected target has lost nothing of it: what is left out is orthogonal to all up-sampled maps,
    constant ones included, so the mean is that of the up-sampled target, and the mean square is
    its mean square and the residual.

    Args:
        student_BTChw: As of `feature_mse`.
        target_BTChw: As there.
        residual_B: As there.
        teacher_grid: As there.

    Returns:
        0-d tensor, mean over clips, no unit: 0 where both agree, 1 for the best map of one number.
        A clip whose map has no variance, a millionth of its mean square at most, counts as 0.

    Raises:
        ValueError: As of `feature_mse`.
    """
    difference, scale = _difference(student_BTChw, target_BTChw, teacher_grid)
    error_B = difference.square().flatten(1).mean(1) * scale
    square_B, mean_B = _moments(target_BTChw.detach().to(difference.dtype), teacher_grid)
    if residual_B is not None:
        residual_B = residual_B.detach().to(difference.dtype)
        error_B, square_B = error_B + residual_B, square_B + residual_B
    variance_B = square_B - mean_B.square()
    flat_B = variance_B <= NO_VARIANCE * square_B
    return (error_B / variance_B.masked_fill(flat_B, 1)).masked_fill(flat_B, 0).mean()


def _difference(
    student_BTChw: Tensor, target_BTChw: Tensor, teacher_grid: Grid
) -> tuple[Tensor, float]:
    """Numbers (B, T, C, n) and a factor, with which their mean square is that on teacher's grid."""
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
    student = precise(student_BTChw).flatten(-2)
    target = target_BTChw.detach().to(student.dtype).flatten(-2)
    with torch.autocast(student.device.type, enabled=False):  # it would multiply in bfloat16
        if student_grid == teacher_grid:
            return student - target, 1.0
        if target_grid == student_grid:
            factor = triangular_on(student_grid, teacher_grid, student.device, student.dtype)
            rotated = (student - target) @ factor.T
            # The mean is over teacher cells, of which `rotated` has no more than the student.
            return rotated, rotated.shape[-1] / (teacher_grid[0] * teacher_grid[1])
        up = upsampling_on(student_grid, teacher_grid, student.device, student.dtype)
        return student @ up.T - target, 1.0


def _moments(target_BTChw: Tensor, teacher_grid: Grid) -> tuple[Tensor, Tensor]:
    """Mean square and mean of each clip's target, up-sampled to the teacher's grid."""
    grid = (target_BTChw.shape[-2], target_BTChw.shape[-1])
    flat = target_BTChw.flatten(-2)
    if grid != teacher_grid:
        with torch.autocast(flat.device.type, enabled=False):  # it would multiply in bfloat16
            flat = flat @ upsampling_on(grid, teacher_grid, flat.device, flat.dtype).T
    flat = flat.flatten(1)
    return flat.square().mean(1), flat.mean(1)


def softened_kl(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """Average KL(teacher || student) over a batch, both softened.

    The factor temperature**2 undoes the shrinking of gradients, so that a weight keeps its meaning
    when the temperature is swept.

    Args:
        student_BK: Student's class scores, any float dtype.
        teacher_BK: Stored class scores, same shape; constants.
        temperature: Divisor of both, > 0.

    Returns:
        0-d tensor, nats times temperature**2, divided by B; 0 when both agree.

    Raises:
        ValueError: If the shapes differ or the temperature is not positive.

    Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """
    if student_BK.shape != teacher_BK.shape:
        raise ValueError(
            f"student {tuple(student_BK.shape)} and teacher {tuple(teacher_BK.shape)} class scores "
            "differ in shape; was the cache written for another class list?"
        )
    require_positive(temperature)
    student = precise(student_BK)
    log_student = log_softmax(student / temperature, dim=-1)
    log_teacher = log_softmax(teacher_BK.detach().to(student.dtype) / temperature, dim=-1)
    divergence: Tensor = kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def logit_map_kl(student_BThwK: Tensor, teacher_BThwK: Tensor, *, temperature: float) -> Tensor:
    """Mean KL(teacher || student) of softened class scores over the locations of the teacher's map.

    The student's scores are up-sampled bilinearly to the teacher's grid. That equals classifying an
    up-sampled feature map, since bilinear weights sum to 1 and the classifier is affine.

    Args:
        student_BThwK: Student's class scores at every location of its own grid, any float dtype.
        teacher_BThwK: Stored class scores at every location of the teacher's grid; constants.
        temperature: Divisor of both, > 0.

    Returns:
        0-d tensor, nats times temperature**2, divided by the rows B * T * h * w AND by K: the
        published recipe averages over classes too, and its weight 200 belongs to that.

    Raises:
        ValueError: If batch, frames or classes differ, or the temperature is not positive.

    Source: ResKD (arXiv:2209.12797), the recipe for video transformers, temperature 2.
    """
    grid = _location_grid(student_BThwK, teacher_BThwK, num_classes=teacher_BThwK.shape[-1])
    require_positive(temperature)
    scores = _upsampled_scores(student_BThwK, grid)
    log_student = log_softmax(scores / temperature, dim=-1)
    teacher = teacher_BThwK.detach().flatten(2, 3).to(scores.dtype)
    log_teacher = log_softmax(teacher / temperature, dim=-1)
    divergence: Tensor = kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return divergence * (temperature**2 / log_student.numel())


def top_k_logit_map_kl(
    student_BThwK: Tensor,
    ids_BThwk: Tensor,
    values_BThwk: Tensor,
    rest_BThw: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """`logit_map_kl` from a map of which k classes per location were kept.

    Compares k + 1 outcomes: each kept class, and all others lumped into one, "rest". With p the
    teacher's and q the student's probabilities, the chain rule of KL gives

        KL(p || q) = KL over k + 1 outcomes + p(rest) KL(p given rest || q given rest),

    so this is a lower bound of the dense loss. They are equal where p(rest) is 0, where k = K - 1,
    and where both agree on the shares inside the rest.

    Args:
        student_BThwK: Student's class scores at every location of its own grid, any float dtype.
        ids_BThwk: Kept classes on the teacher's grid, any integer dtype, no class twice.
        values_BThwk: Their class scores; constants.
        rest_BThw: log sum exp(z / temperature) over the other classes, at this temperature.
        temperature: Divisor of the scores, > 0, the one that `rest_BThw` was taken at.

    Returns:
        0-d tensor, nats times temperature**2, divided by B * T * h * w * K as the dense loss is.

    Raises:
        ValueError: If shapes do not fit, or the temperature is not positive.
    """
    num_classes = student_BThwK.shape[-1]
    grid = _location_grid(student_BThwK, values_BThwk, num_classes=num_classes)
    if ids_BThwk.shape != values_BThwk.shape or rest_BThw.shape != values_BThwk.shape[:-1]:
        raise ValueError(
            f"classes {tuple(ids_BThwk.shape)}, scores {tuple(values_BThwk.shape)} and rest "
            f"{tuple(rest_BThw.shape)} are not the three arrays of one top-k map"
        )
    require_positive(temperature)
    log_all = log_softmax(_upsampled_scores(student_BThwK, grid) / temperature, dim=-1)
    ids = ids_BThwk.long().flatten(2, 3)
    # Summed up over the others: one minus the kept would cancel where the rest is small.
    log_rest = log_all.scatter(-1, ids, -inf).logsumexp(dim=-1, keepdim=True)
    log_student = torch.cat([log_all.gather(-1, ids), log_rest], dim=-1)
    kept = values_BThwk.detach().flatten(2, 3).to(log_all.dtype) / temperature
    rest = rest_BThw.detach().flatten(2, 3).to(log_all.dtype).unsqueeze(-1)
    log_teacher = log_softmax(torch.cat([kept, rest], dim=-1), dim=-1)
    divergence: Tensor = kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return divergence * (temperature**2 / log_all.numel())


def label_loss(
    logits_BK: Tensor, labels: Tensor, spec: LabelSpec, class_weights_K: Tensor | None
) -> Tensor:
    """Cross entropy of class scores with labels, in float32.

    Args:
        logits_BK: Class scores before softmax or sigmoid, any float dtype.
        labels: Kind `one_of`: class numbers, int64 (B,). Kind `any_of`: 1 where a class applies,
            else 0, float (B, K).
        spec: Kind and smoothing.
        class_weights_K: Weights of the classes; None weighs all alike.

    Returns:
        0-d tensor, nats. `one_of`: divided by B, whatever the weights, so that the parts of a batch
        add up. `any_of`: divided by B * K, as if every class were a question of its own.

    Source: `one_of` with smoothing e: Szegedy et al. 2016, arXiv:1512.00567, section 7; the target
    is 1 - e + e/K for the label and e/K for the others.
    """
    scores = logits_BK.float()
    if spec.kind == "one_of":
        summed = cross_entropy(
            scores,
            labels,
            weight=class_weights_K,
            label_smoothing=spec.smoothing,
            reduction="sum",
        )
        return summed / len(labels)
    wanted = labels.float() * (1 - spec.smoothing) + spec.smoothing / 2
    return binary_cross_entropy_with_logits(scores, wanted, weight=class_weights_K)


def class_weights(
    spec: LabelSpec, labels: Iterable[Sequence[int]], *, num_classes: int
) -> Tensor | None:
    """Weight of each class, float32 (K,), or None where all weigh alike.

    `balanced` gives a class the mean number of videos of the classes that occur, over its own
    number: the mean weight over all labels is 1. A class without videos has weight 1.

    Args:
        spec: What was asked for.
        labels: Classes of every training video.
        num_classes: K.

    Raises:
        ExperimentError: If weights were given for another number of classes.
    """
    if spec.class_weights is None:
        return None
    if spec.class_weights == "balanced":
        counts = Counter(label for several in labels for label in several)
        mean = counts.total() / len(counts)
        weights = [mean / counts[label] if counts[label] else 1.0 for label in range(num_classes)]
        return torch.tensor(weights, dtype=torch.float32)
    if len(spec.class_weights) != num_classes:
        raise ExperimentError(
            f"training.labels.class_weights has {len(spec.class_weights)} numbers, the index has "
            f"{num_classes} classes; give one for each, in the order of the index, or `balanced`."
        )
    return torch.tensor(spec.class_weights, dtype=torch.float32)


def precise(outputs: Tensor) -> Tensor:
    """A network's outputs in the numbers that losses are computed in."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def require_positive(temperature: float) -> None:
    """Refuse any other temperature."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _location_grid(student_BThwK: Tensor, stored: Tensor, *, num_classes: int) -> Grid:
    """Grid of a stored map (B, T, h, w, ...), once it is known to fit the student's."""
    student = tuple(student_BThwK.shape)
    if stored.ndim != 5 or student != (*stored.shape[:2], *student[2:4], num_classes):
        raise ValueError(
            f"the student's logit map {student} and the stored one {tuple(stored.shape)} differ in "
            "clips, frames or classes; was the cache written for another class list?"
        )
    return stored.shape[2], stored.shape[3]


def _upsampled_scores(student_BThwK: Tensor, grid: Grid) -> Tensor:
    """Class scores (B, T, cells, K) on the teacher's grid."""
    own_grid = (student_BThwK.shape[2], student_BThwK.shape[3])
    scores = precise(student_BThwK).flatten(2, 3)
    if own_grid == grid:
        return scores
    with torch.autocast(scores.device.type, enabled=False):  # it would multiply in bfloat16
        up: Tensor = upsampling_on(own_grid, grid, scores.device, scores.dtype)
        return up @ scores
