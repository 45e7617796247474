"""Losses: values worked out on paper, the direct formula, and refusals."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reskd.common.distill.arrays import Grid
from reskd.common.distill.grid_projection import project
from reskd.common.distill.losses import class_weights, feature_mse, label_loss, softened_kl
from reskd.common.errors import ExperimentError
from reskd.common.experiment import LabelSpec

# KL of a teacher that says (3/4, 1/4) from a student that says (1/2, 1/2), in nats.
THREE_TO_ONE = 0.75 * log(1.5) + 0.25 * log(0.5)
SHAPE = (2, 3, 5)
SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 3.0, 0.5])


def maps(grid: Grid, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*SHAPE, *grid, dtype=torch.float64, generator=generator).to(dtype)


def direct(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((interpolate(s) - t)^2) in float64."""
    grid = teacher.shape[-2:]
    upsampled = interpolate(student.double().flatten(0, 1), size=grid, mode="bilinear")
    return (upsampled - teacher.double().flatten(0, 1)).square().mean()


def value_and_gradient(loss: Tensor, student: Tensor) -> tuple[float, Tensor]:
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.item(), gradient.double()


def assert_same(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert (found[1] - expected[1]).norm() / expected[1].norm() < 1e-6


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_softened_kl_at_any_temperature_equals_the_hand_value(temperature: float) -> None:
    # Scores multiplied by the temperature soften back to (3/4, 1/4); a shift changes nothing.
    teacher = torch.tensor([[temperature * log(3.0) + 5, 5.0]])
    loss = softened_kl(torch.zeros(1, 2), teacher, temperature=temperature)
    assert loss.item() == pytest.approx(THREE_TO_ONE * temperature**2, rel=1e-5)


def test_softened_kl_of_a_batch_is_divided_by_its_clips_alone() -> None:
    teacher = torch.tensor([[log(3.0), 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, log(3.0)]])
    loss = softened_kl(torch.zeros(4, 2), teacher, temperature=1.0)
    assert loss.item() == pytest.approx(THREE_TO_ONE / 2, rel=1e-5)


def test_softened_kl_is_zero_for_equal_scores_and_not_symmetric() -> None:
    first, second = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.0, 3.0, 0.0]])
    assert softened_kl(first, first + 3, temperature=2.0).item() == pytest.approx(0, abs=1e-6)
    there = softened_kl(first, second, temperature=1.0)
    back = softened_kl(second, first, temperature=1.0)
    assert abs(there.item() - back.item()) > 0.1


def test_softened_kl_gradient_is_the_difference_of_probabilities() -> None:
    temperature = 3.0
    student = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 0.0, 1.0], [1.0, 0.0, 0.0]], requires_grad=True)
    softened_kl(student, teacher, temperature=temperature).backward()
    difference = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, difference.detach() * temperature / 2)
    assert teacher.grad is None  # stored scores are constants


def test_softened_kl_of_half_precision_runs_in_float32() -> None:
    scores = torch.randn(4, 400).half()
    loss = softened_kl(scores, scores.roll(1, 0), temperature=2.0)
    assert loss.dtype == torch.float32
    expected = softened_kl(scores.float(), scores.roll(1, 0).float(), temperature=2.0)
    assert torch.equal(loss, expected)


def test_losses_of_a_float64_student_stay_float64_whatever_is_stored() -> None:
    student = maps((4, 4), dtype=torch.float64)
    for grid in ((4, 4), (7, 7)):
        stored = maps(grid, 1, torch.float16)
        loss = feature_mse(student, stored, torch.ones(2), teacher_grid=(7, 7))
        assert loss.dtype == torch.float64
    scores = torch.randn(4, 10, dtype=torch.float64)
    assert softened_kl(scores, scores.half(), temperature=2.0).dtype == torch.float64


def test_softened_kl_of_another_class_list_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 400\) and teacher \(2, 174\)"):
        softened_kl(torch.zeros(2, 400), torch.zeros(2, 174), temperature=1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_softened_kl_of_no_positive_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        softened_kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)


def test_feature_mse_of_single_cells_equals_the_hand_value() -> None:
    # One cell up-sampled to 2 x 2 stays itself: ((3-1)^2 + (3-2)^2 + 0 + (3-5)^2) / 4.
    student = torch.full((1, 1, 1, 1, 1), 3.0)
    teacher = torch.tensor([1.0, 2.0, 3.0, 5.0]).view(1, 1, 1, 2, 2)
    assert feature_mse(student, teacher, None, teacher_grid=(2, 2)).item() == 9 / 4
    # The same stored on the student's grid: the mean 2.75, and the variance of the four cells.
    projected, residual = project(teacher, (1, 1))
    assert projected.item() == pytest.approx(2.75)
    assert residual.item() == pytest.approx(2.1875)
    loss = feature_mse(student, projected, residual, teacher_grid=(2, 2))
    assert loss.item() == pytest.approx(9 / 4)


@pytest.mark.parametrize("student_grid", [(4, 4), (3, 3), (5, 5), (7, 7), (3, 5)])
def test_feature_mse_of_projected_target_equals_direct_formula(student_grid: Grid) -> None:
    teacher = maps((7, 7), seed=1)
    student = maps(student_grid).requires_grad_()
    expected = value_and_gradient(direct(student, teacher), student)
    stored, residual = project(teacher.double(), student_grid)
    loss = feature_mse(student, stored.float(), residual.float(), teacher_grid=(7, 7))
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert_same(value_and_gradient(loss, student), expected)


@pytest.mark.parametrize("student_grid", [(4, 4), (7, 7), (14, 14)])
def test_feature_mse_of_target_on_teacher_grid_equals_direct_formula(student_grid: Grid) -> None:
    teacher = maps((7, 7), seed=1)
    student = maps(student_grid).requires_grad_()
    expected = value_and_gradient(direct(student, teacher), student)
    loss = feature_mse(student, teacher, None, teacher_grid=(7, 7))
    assert_same(value_and_gradient(loss, student), expected)


def test_feature_mse_residual_moves_the_value_by_its_mean_and_not_the_gradient() -> None:
    student, stored = maps((4, 4)).requires_grad_(), maps((4, 4), seed=1)
    without = value_and_gradient(feature_mse(student, stored, None, teacher_grid=(7, 7)), student)
    residual = torch.tensor([1.0, 4.0])
    with_it = value_and_gradient(
        feature_mse(student, stored, residual, teacher_grid=(7, 7)), student
    )
    assert with_it[0] - without[0] == pytest.approx(2.5, rel=1e-6)
    assert torch.equal(with_it[1], without[1])


@pytest.mark.parametrize("grid", [(4, 4), (7, 7)])
def test_feature_mse_of_equal_maps_is_zero(grid: Grid) -> None:
    student = maps(grid)
    assert feature_mse(student, student.clone(), None, teacher_grid=(7, 7)).item() == 0


def test_feature_mse_does_not_reach_back_into_the_target() -> None:
    stored = maps((4, 4), seed=1).requires_grad_()
    student = maps((4, 4)).requires_grad_()
    feature_mse(student, stored, None, teacher_grid=(7, 7)).backward()
    assert student.grad is not None
    assert stored.grad is None


@pytest.mark.parametrize("target_grid", [(4, 4), (7, 7)])
def test_feature_mse_of_half_precision_runs_in_float32_under_autocast_too(
    target_grid: Grid,
) -> None:
    student, stored = maps((4, 4), dtype=torch.bfloat16), maps(target_grid, 1, torch.float16)
    expected = feature_mse(student.float(), stored.float(), None, teacher_grid=(7, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = feature_mse(student, stored, None, teacher_grid=(7, 7))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(
    ("student", "target"),
    [
        ((2, 3, 5, 4, 4), (2, 3, 6, 4, 4)),
        ((2, 3, 5, 4, 4), (2, 4, 5, 4, 4)),
        ((2, 3, 5, 4, 4), (1, 3, 5, 4, 4)),
        ((2, 3, 5, 4, 4), (2, 3, 5, 3, 3)),
        ((2, 3, 5, 7, 7), (2, 3, 5, 4, 4)),
    ],
)
def test_feature_mse_of_maps_that_do_not_fit_names_both_shapes(
    student: tuple[int, ...], target: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="do not fit") as caught:
        feature_mse(torch.zeros(student), torch.zeros(target), None, teacher_grid=(7, 7))
    assert str(student) in str(caught.value)
    assert str(target) in str(caught.value)
    assert "(7, 7)" in str(caught.value)


def _log_softmax(row: Tensor) -> list[float]:
    total = log(sum(exp(score) for score in row.tolist()))
    return [score - total for score in row.tolist()]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_one_of_is_the_mean_over_clips_whatever_the_weights(
    weights: Tensor | None, smoothing: float
) -> None:
    labels = [0, 1]
    share = [1.0, 1.0, 1.0] if weights is None else weights.tolist()
    expected = 0.0
    for row, label in zip(SCORES, labels, strict=True):
        for k, log_p in enumerate(_log_softmax(row)):
            target = smoothing / 3 + (1 - smoothing) * (k == label)
            expected -= share[k] * target * log_p / len(labels)
    loss = label_loss(SCORES, torch.tensor(labels), LabelSpec(smoothing=smoothing), weights)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_one_of_in_parts_adds_up_to_the_whole() -> None:
    spec, labels = LabelSpec(smoothing=0.1), torch.tensor([2, 1])
    whole = label_loss(SCORES, labels, spec, WEIGHTS)
    parts = [label_loss(SCORES[i : i + 1], labels[i : i + 1], spec, WEIGHTS) for i in range(2)]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_any_of_asks_every_class_by_itself(smoothing: float) -> None:
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    expected = 0.0
    for row, wanted in zip(SCORES.tolist(), labels.tolist(), strict=True):
        for score, label, weight in zip(row, wanted, WEIGHTS.tolist(), strict=True):
            target = label * (1 - smoothing) + smoothing / 2
            yes = 1 / (1 + exp(-score))
            expected -= weight * (target * log(yes) + (1 - target) * log(1 - yes)) / 6
    loss = label_loss(SCORES, labels, LabelSpec(kind="any_of", smoothing=smoothing), WEIGHTS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_balanced_weights_have_mean_1_over_the_labels_and_spare_absent_classes() -> None:
    labels = [(0,), (0,), (0, 3), (3,), (1,)]
    weights = class_weights(LabelSpec(class_weights="balanced"), labels, num_classes=5)
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 3, 2.0, 1.0, 1.0, 1.0])
    flat = [label for several in labels for label in several]
    assert weights[flat].mean().item() == pytest.approx(1.0)


def test_given_weights_are_taken_and_must_be_as_many_as_the_classes() -> None:
    assert class_weights(LabelSpec(), [(0,)], num_classes=2) is None
    spec = LabelSpec(class_weights=(1.0, 2.5))
    given = class_weights(spec, [(0,)], num_classes=2)
    assert given is not None
    assert given.tolist() == [1.0, 2.5]
    with pytest.raises(ExperimentError, match="class_weights has 2 numbers, the index has 3"):
        class_weights(spec, [(0,)], num_classes=3)
