"""The losses of labels against sums written out."""

import math

import pytest
import torch

from reskd.common.distill.losses import class_weights, label_loss
from reskd.common.errors import ExperimentError
from reskd.common.experiment import LabelSpec

SCORES = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 3.0, 0.5])


def _log_softmax(row: torch.Tensor) -> list[float]:
    total = math.log(sum(math.exp(score) for score in row.tolist()))
    return [score - total for score in row.tolist()]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_one_of_is_the_mean_over_clips_whatever_the_weights(
    weights: torch.Tensor | None, smoothing: float
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
            yes = 1 / (1 + math.exp(-score))
            expected -= weight * (target * math.log(yes) + (1 - target) * math.log(1 - yes)) / 6
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
