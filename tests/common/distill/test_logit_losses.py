"""DKD, DIST and standardised scores: values worked out on paper, what they are indifferent to."""

from collections.abc import Callable
from math import log, sqrt, tanh
from typing import Final

import pytest
import torch
from torch import Tensor

from reskd.common.distill.logit_losses import (
    dist_inter,
    dist_intra,
    dkd_others,
    dkd_target,
    standardised,
)
from reskd.common.distill.losses import softened_kl

LABEL: Final = torch.tensor([0])
# Class 0 is the labelled one: 1/2 against 1/4 for it; among the others 1/2, 1/2 against 1/3, 2/3.
TEACHER: Final = (1 / 2, 1 / 4, 1 / 4)
STUDENT: Final = (1 / 4, 1 / 4, 1 / 2)
TARGET: Final = 0.5 * log(2) + 0.5 * log(2 / 3)
OTHERS: Final = 0.5 * log(3 / 2) + 0.5 * log(3 / 4)
SEVERAL: Final = torch.tensor([[1.0, 1.0, 0.0]])


def scores(*rows: tuple[float, ...], temperature: float = 1.0) -> Tensor:
    """Class scores of these probabilities at a temperature, shifted: a shift changes nothing."""
    return temperature * torch.tensor(rows, dtype=torch.float64).log() + 3


def drawn(seed: int, clips: int = 6, classes: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, classes, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(
    ("loss", "expected"), [(dkd_target, TARGET), (dkd_others, OTHERS)], ids=["target", "others"]
)
def test_dkd_equals_the_hand_value(
    loss: Callable[..., Tensor], expected: float, temperature: float
) -> None:
    student = scores(STUDENT, temperature=temperature)
    teacher = scores(TEACHER, temperature=temperature)
    found = loss(student, teacher, LABEL, temperature=temperature).item()
    assert found == pytest.approx(expected * temperature**2)
    # Two clips of which one agrees: divided by the clips.
    both = torch.cat([student, teacher]), torch.cat([teacher, teacher])
    found = loss(*both, torch.tensor([0, 1]), temperature=temperature).item()
    assert found == pytest.approx(expected * temperature**2 / 2)


@pytest.mark.parametrize("label", range(3))
def test_dkd_terms_add_up_to_plain_distillation(label: int) -> None:
    student, teacher, labels = drawn(0, 1), drawn(1, 1), torch.tensor([label])
    right = (teacher / 2).softmax(-1)[0, label]
    terms = [loss(student, teacher, labels, temperature=2.0) for loss in (dkd_target, dkd_others)]
    expected = softened_kl(student, teacher, temperature=2.0)
    torch.testing.assert_close(terms[0] + (1 - right) * terms[1], expected)


@pytest.mark.parametrize("loss", [dkd_target, dkd_others])
def test_dkd_of_a_certain_teacher_is_finite(loss: Callable[..., Tensor]) -> None:
    student = torch.tensor([[-60.0, 0.0, 60.0]], requires_grad=True)
    value = loss(student, torch.tensor([[90.0, 0.0, -90.0]]).half(), LABEL, temperature=1.0)
    value.backward()
    assert student.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", [dkd_target, dkd_others])
def test_dkd_of_several_labels_is_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"labels \(1, 3\) name several classes"):
        loss(drawn(0, 1, 3), drawn(1, 1, 3), SEVERAL, temperature=1.0)


# Deviations from the mean 1/3 of the teacher (1/6, -1/12, -1/12), of the student (-1/12, -1/12,
# 1/6): their product is -1/48, their squares 1/24 each, so the correlation is -1/2.
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_inter_equals_the_hand_value(temperature: float) -> None:
    student = scores(STUDENT, temperature=temperature)
    teacher = scores(TEACHER, temperature=temperature)
    found = dist_inter(student, teacher, temperature=temperature).item()
    assert found == pytest.approx(1.5 * temperature**2)
    both = torch.cat([student, teacher]), torch.cat([teacher, teacher])
    found = dist_inter(*both, temperature=temperature).item()
    assert found == pytest.approx(0.75 * temperature**2, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_intra_equals_the_hand_value(temperature: float) -> None:
    # The same numbers down the clips, for the first of two classes; the other's mirror them.
    student = scores(*((p, 1 - p) for p in STUDENT), temperature=temperature)
    teacher = scores(*((p, 1 - p) for p in TEACHER), temperature=temperature)
    found = dist_intra(student, teacher, temperature=temperature).item()
    assert found == pytest.approx(1.5 * temperature**2, rel=1e-6)


@pytest.mark.parametrize("loss", [dist_inter, dist_intra])
def test_dist_of_equal_scores_is_zero(loss: Callable[..., Tensor]) -> None:
    assert loss(drawn(0), drawn(0) + 5, temperature=2.0).item() == pytest.approx(0, abs=1e-5)


def test_dist_intra_of_one_clip_is_a_constant() -> None:
    student = drawn(0, 1).requires_grad_()
    value = dist_intra(student, drawn(1, 1), temperature=3.0)
    value.backward()
    assert value.item() == 9
    assert student.grad is not None
    assert not student.grad.any()


def test_standardised_scores_equal_the_hand_value() -> None:
    # Mean 1, variance (4 + 0 + 4) / 3.
    found = standardised(torch.tensor([[3.0, 1.0, -1.0]], dtype=torch.float64))
    expected = torch.tensor([[sqrt(1.5), 0.0, -sqrt(1.5)]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_standardised_distillation_equals_the_hand_value() -> None:
    # Two classes become 1 and -1, whatever they were: at temperature 2 probabilities of which the
    # logarithm's ratio is 1. KL((p, 1 - p) || (1 - p, p)) = 2 p - 1 = tanh(1/2).
    student, teacher = torch.tensor([[1.0, 9.0]]).double(), torch.tensor([[5.0, 1.0]]).double()
    loss = softened_kl(standardised(student), standardised(teacher), temperature=2.0)
    assert loss.item() == pytest.approx(4 * tanh(0.5), rel=1e-6)


def test_standardised_scores_do_not_know_scale_and_shift() -> None:
    found = softened_kl(standardised(drawn(0)), standardised(7 * drawn(0) - 3), temperature=2.0)
    assert found.item() == pytest.approx(0, abs=1e-12)


def test_standardised_scores_that_are_all_alike_are_zeros_and_lead_nowhere() -> None:
    student = torch.full((1, 4), 2.0, requires_grad=True)
    softened_kl(standardised(student), drawn(0, 1, 4).half(), temperature=1.0).backward()
    assert not standardised(student).any()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", [dist_inter, dist_intra])
def test_another_class_list_is_refused_by_both_shapes(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 400\) and teacher \(2, 174\)"):
        loss(torch.zeros(2, 400), torch.zeros(2, 174), temperature=1.0)
