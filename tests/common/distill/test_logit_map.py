"""Class scores at every location: the dense loss, its top-k form, and how they hang together."""

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import interpolate, kl_div

from reskd.common.distill.losses import logit_map_kl, softened_kl, top_k_logit_map_kl
from reskd.common.models.tsn import TSN

# KL of a teacher that says (3/4, 1/4) from a student that says (1/2, 1/2), in nats.
THREE_TO_ONE = 0.75 * log(1.5) + 0.25 * log(0.5)
CLASSES = 6
TopK = tuple[Tensor, Tensor, Tensor]


def scores(grid: tuple[int, int], seed: int = 0, spread: float = 2.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return spread * torch.randn(2, 3, *grid, CLASSES, dtype=torch.float64, generator=rng)


def top_k(dense: Tensor, k: int, temperature: float) -> TopK:
    """Written out: the k best of each location, and the mass of the sorted remainder."""
    values, ids = dense.sort(dim=-1, descending=True)
    return ids[..., :k], values[..., :k], (values[..., k:] / temperature).logsumexp(-1)


def test_logit_map_kl_of_one_location_equals_the_hand_value() -> None:
    temperature = 2.0
    teacher = torch.tensor([temperature * log(3.0), 0.0]).expand(2, 3, 7, 7, 2)
    student = torch.zeros(2, 3, 4, 4, 2)
    loss = logit_map_kl(student, teacher, temperature=temperature)
    assert loss.dtype == torch.float32
    # Divided by the locations and by the two classes.
    assert loss.item() == pytest.approx(THREE_TO_ONE * temperature**2 / 2, rel=1e-5)


def test_logit_map_kl_equals_the_published_formula_on_upsampled_features() -> None:
    head = TSN(_Pass(8), num_classes=CLASSES, dropout=0.5).double()
    nn.init.normal_(head.classifier.weight)
    rng = torch.Generator().manual_seed(3)
    features = torch.randn(2, 3, 8, 4, 4, dtype=torch.float64, generator=rng)
    teacher = scores((7, 7), seed=4)
    upsampled = interpolate(features.flatten(0, 1), size=(7, 7), mode="bilinear")
    rows = head.classifier(upsampled.movedim(1, -1)).flatten(0, 2)
    expected = (
        4
        * kl_div(
            (rows / 2).log_softmax(1), (teacher.flatten(0, 3) / 2).softmax(1), reduction="none"
        ).mean()
    )
    found = logit_map_kl(head.logit_map(features), teacher, temperature=2.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_logit_map_of_upsampled_features_equals_upsampled_logit_map() -> None:
    head = TSN(_Pass(8), num_classes=CLASSES, dropout=0.5).double().train()
    nn.init.normal_(head.classifier.weight)
    nn.init.normal_(head.classifier.bias)
    features = torch.randn(2, 3, 8, 4, 4, dtype=torch.float64)
    upsampled = interpolate(features.flatten(0, 1), size=(7, 7), mode="bilinear")
    classified_late = head.logit_map(upsampled.unflatten(0, (2, 3)))
    classified_early = head.logit_map(features)
    assert classified_early.shape == (2, 3, 4, 4, CLASSES)
    late = interpolate(
        classified_early.flatten(0, 1).movedim(-1, 1), size=(7, 7), mode="bilinear"
    ).movedim(1, -1)
    torch.testing.assert_close(classified_late.flatten(0, 1), late, rtol=1e-12, atol=1e-12)


def test_logit_map_averaged_over_places_and_frames_is_the_class_score() -> None:
    head = TSN(_Pass(8), num_classes=CLASSES, dropout=0.5).eval()
    features = torch.randn(2, 3, 8, 4, 4)
    mean = head.logit_map(features).mean(dim=(1, 2, 3))
    torch.testing.assert_close(mean, head(features).logits_BK)


def test_logit_map_kl_on_a_grid_of_one_is_softened_kl_over_classes() -> None:
    student, teacher = scores((1, 1)), scores((1, 1), seed=1)
    expected = softened_kl(student.flatten(0, 3), teacher.flatten(0, 3), temperature=3.0)
    found = logit_map_kl(student, teacher, temperature=3.0)
    assert found.item() == pytest.approx(expected.item() / CLASSES, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    spread=st.floats(0.1, 10),
    temperature=st.floats(0.5, 5),
    k=st.integers(1, CLASSES - 1),
)
def test_top_k_form_is_a_lower_bound_by_the_chain_rule(
    seed: int, spread: float, temperature: float, k: int
) -> None:
    student, teacher = scores((2, 2), seed), scores((3, 3), seed + 1000, spread)
    dense = logit_map_kl(student, teacher, temperature=temperature)
    ids, values, rest = top_k(teacher, k, temperature)
    bound = top_k_logit_map_kl(student, ids, values, rest, temperature=temperature)
    # What is missing: the rest's mass times the divergence inside the rest.
    others = torch.ones_like(teacher).scatter(-1, ids, 0).bool()
    upsampled = interpolate(student.flatten(0, 1).movedim(-1, 1), size=(3, 3), mode="bilinear")
    inside = [
        (scored / temperature).masked_fill(~others, -1e9).log_softmax(-1)
        for scored in (upsampled.movedim(1, -1).view_as(teacher), teacher)
    ]
    divergence = (inside[1].exp() * (inside[1] - inside[0])).where(others, 0).sum(-1)
    mass = (teacher / temperature).softmax(-1).where(others, 0).sum(-1)
    missing = (mass * divergence).mean() / CLASSES * temperature**2
    assert (bound + missing).item() == pytest.approx(dense.item(), rel=1e-9, abs=1e-12)
    assert -1e-12 <= bound.item() <= dense.item() + 1e-12


def test_top_k_form_of_all_classes_but_one_is_the_dense_loss_and_gradient() -> None:
    student, teacher = scores((4, 4)).requires_grad_(), scores((7, 7), seed=1)
    dense = logit_map_kl(student, teacher, temperature=2.0)
    found = top_k_logit_map_kl(student, *top_k(teacher, CLASSES - 1, 2.0), temperature=2.0)
    assert found.item() == pytest.approx(dense.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (dense, found)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-15)


def test_top_k_form_of_a_certain_teacher_is_the_dense_loss() -> None:
    certain = torch.tensor([60.0, 59.0, -60, -60, -60, -60], dtype=torch.float64)
    student, teacher = scores((4, 4)), scores((7, 7), seed=1) + certain
    dense = logit_map_kl(student, teacher, temperature=2.0)
    found = top_k_logit_map_kl(student, *top_k(teacher, 2, 2.0), temperature=2.0)
    assert found.item() == pytest.approx(dense.item(), rel=1e-12)


def test_top_k_form_from_stored_types_runs_in_float32_under_autocast() -> None:
    student, teacher = scores((4, 4)).float(), scores((7, 7), seed=1)
    ids, values, rest = top_k(teacher, 3, 2.0)
    exact = top_k_logit_map_kl(student.double(), ids, values, rest, temperature=2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = top_k_logit_map_kl(
            student, ids.to(torch.uint16), values.half(), rest.half(), temperature=2.0
        )
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=2e-3)


def test_top_k_form_of_a_student_sure_of_the_kept_classes_has_a_finite_gradient() -> None:
    student = torch.tensor([200.0, 0, 0, 0, 0, 0]).expand(2, 3, 4, 4, CLASSES).clone()
    student.requires_grad_()
    teacher = scores((7, 7), seed=1).float()
    loss = top_k_logit_map_kl(student, *top_k(teacher, 2, 1.0), temperature=1.0)
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_logit_map_losses_do_not_reach_back_into_the_target() -> None:
    student = scores((4, 4)).requires_grad_()
    teacher = scores((7, 7), seed=1)
    ids, values, rest = top_k(teacher, 3, 2.0)
    for constant in (teacher, values, rest):
        constant.requires_grad_()
    logit_map_kl(student, teacher, temperature=2.0).backward()
    top_k_logit_map_kl(student, ids, values, rest, temperature=2.0).backward()
    assert student.grad is not None
    assert teacher.grad is values.grad is rest.grad is None


@pytest.mark.parametrize("shape", [(2, 3, 7, 7, 5), (2, 4, 7, 7, 6), (1, 3, 7, 7, 6), (2, 3, 7, 6)])
def test_logit_map_kl_of_another_map_names_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4, 6\) and the stored") as caught:
        logit_map_kl(scores((4, 4)), torch.zeros(shape), temperature=2.0)
    assert str(shape) in str(caught.value)


def test_top_k_form_of_arrays_from_several_maps_is_refused() -> None:
    ids, values, rest = top_k(scores((7, 7)), 3, 2.0)
    with pytest.raises(ValueError, match="three arrays of one top-k map"):
        top_k_logit_map_kl(scores((4, 4)), ids[..., :2], values, rest, temperature=2.0)
    with pytest.raises(ValueError, match="three arrays of one top-k map"):
        top_k_logit_map_kl(scores((4, 4)), ids, values, rest[:, :, 1:], temperature=2.0)


@pytest.mark.parametrize("temperature", [0.0, float("nan")])
def test_logit_map_losses_of_no_positive_temperature_are_refused(temperature: float) -> None:
    student, teacher = scores((4, 4)), scores((7, 7))
    with pytest.raises(ValueError, match="temperature must be positive"):
        logit_map_kl(student, teacher, temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive"):
        top_k_logit_map_kl(student, *top_k(teacher, 3, 2.0), temperature=temperature)


class _Pass(nn.Module):
    """A backbone whose feature maps are its frames."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, frames: Tensor) -> Tensor:
        return frames
