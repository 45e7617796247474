"""Losses on the class scores of whole clips, beside `softened_kl`: DKD, DIST, standardised scores.

They need nothing of a cache but its logits. Stored scores are constants; everything runs in
float32, or in float64 where the student's scores have that type, and nothing waits for the device.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from reskd.common.distill.losses import precise, require_positive

_LEAST_STD: Final = 1e-7
_LEAST_NORMS: Final = 1e-8


def standardised(scores_BK: Tensor) -> Tensor:
    """Class scores of each clip with mean 0 and standard deviation 1.

    Two networks are then compared in the order and relative distance of the classes, whatever the
    scale of their scores.

    Args:
        scores_BK: Class scores, any float dtype.

    Returns:
        (B, K); zeros for a clip whose scores are all alike.

    Source: Sun et al. 2024, arXiv:2403.01427, with the standard deviation of the paper (divided by
    K; the published code divides by K - 1, which is as a temperature higher by sqrt(K / (K - 1))).
    """
    scores = precise(scores_BK)
    spread = scores.std(dim=-1, correction=0, keepdim=True)
    return (scores - scores.mean(dim=-1, keepdim=True)) / (spread + _LEAST_STD)


def dkd_target(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, *, temperature: float
) -> Tensor:
    """KL(teacher || student) of two outcomes: the labelled class, and any other.

    With p the teacher's probability of the labelled class `softened_kl` is, clip by clip, this and
    (1 - p) times `dkd_others`; DKD weighs the two by themselves.

    Args:
        student_BK: Student's class scores, any float dtype.
        teacher_BK: Stored class scores, same shape; constants.
        labels_B: Class numbers, int64.
        temperature: Divisor of both, > 0.

    Returns:
        0-d tensor, nats times temperature**2, divided by B.

    Raises:
        ValueError: If the shapes differ, there are several labels per clip, or the temperature is
            not positive.

    Source: Zhao et al. 2022, arXiv:2203.08679, TCKD.
    """
    (student, student_rest), (teacher, teacher_rest) = _by_label(
        student_BK, teacher_BK, labels_B, temperature
    )

    def outcomes(target_B1: Tensor, rest_BK: Tensor) -> Tensor:
        rest_B1 = rest_BK.logsumexp(dim=-1, keepdim=True)
        return log_softmax(torch.cat([target_B1, rest_B1], dim=-1), dim=-1)

    return _mean_kl(outcomes(student, student_rest), outcomes(teacher, teacher_rest), temperature)


def dkd_others(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, *, temperature: float
) -> Tensor:
    """KL(teacher || student) among the classes that are not the labelled one.

    Args and errors: as of `dkd_target`.

    Returns:
        0-d tensor, nats times temperature**2, divided by B.

    Source: Zhao et al. 2022, arXiv:2203.08679, NCKD.
    """
    (_, student), (_, teacher) = _by_label(student_BK, teacher_BK, labels_B, temperature)
    return _mean_kl(log_softmax(student, dim=-1), log_softmax(teacher, dim=-1), temperature)


def dist_inter(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """1 less the correlation of a clip's class probabilities with the teacher's, mean over clips.

    Args:
        student_BK: Student's class scores, any float dtype.
        teacher_BK: Stored class scores, same shape; constants.
        temperature: Divisor of both, > 0.

    Returns:
        0-d tensor, times temperature**2, as the published code has it; 0 when both agree, or one
        is a line of the other.

    Raises:
        ValueError: If the shapes differ or the temperature is not positive.

    Source: Huang et al. 2022, arXiv:2205.10536, inter-class relation.
    """
    student, teacher = _probabilities(student_BK, teacher_BK, temperature)
    return (1 - _correlation(student, teacher).mean()) * temperature**2


def dist_intra(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """1 less the correlation of a class's probabilities over clips with the teacher's, mean over K.

    It is no mean over clips: that of a batch is not made of those of its parts, and of one clip
    alone it is a constant.

    Args, returns, errors: as of `dist_inter`.

    Source: Huang et al. 2022, arXiv:2205.10536, intra-class relation.
    """
    student, teacher = _probabilities(student_BK, teacher_BK, temperature)
    return (1 - _correlation(student.T, teacher.T).mean()) * temperature**2


def _softened(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    if student_BK.shape != teacher_BK.shape:
        raise ValueError(
            f"student {tuple(student_BK.shape)} and teacher {tuple(teacher_BK.shape)} class scores "
            "differ in shape; was the cache written for another class list?"
        )
    require_positive(temperature)
    student = precise(student_BK)
    return student / temperature, teacher_BK.detach().to(student.dtype) / temperature


def _by_label(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, temperature: float
) -> list[tuple[Tensor, Tensor]]:
    """Of both networks the score of the labelled class (B, 1) and of the others (B, K - 1)."""
    if labels_B.ndim != 1:
        raise ValueError(
            f"labels {tuple(labels_B.shape)} name several classes per clip; DKD tells one from all "
            "others"
        )
    both = _softened(student_BK, teacher_BK, temperature)
    label_B1 = labels_B[:, None]
    others = torch.arange(student_BK.shape[1] - 1, device=labels_B.device)
    others_BK = others + (others >= label_B1)
    return [(scores.gather(1, label_B1), scores.gather(1, others_BK)) for scores in both]


def _mean_kl(log_student: Tensor, log_teacher: Tensor, temperature: float) -> Tensor:
    divergence: Tensor = kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _probabilities(
    student_BK: Tensor, teacher_BK: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    student, teacher = _softened(student_BK, teacher_BK, temperature)
    return student.softmax(dim=-1), teacher.softmax(dim=-1)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, of each row; 0 where one of the rows hardly varies."""
    one = one - one.mean(dim=1, keepdim=True)
    other = other - other.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    correlation: Tensor = (one * other).sum(1) / (norms + _LEAST_NORMS)
    return correlation
