"""What a network learns from labels: one of many classes, or any number of them."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from common.errors import ExperimentError
from common.specs import LabelSpec


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
