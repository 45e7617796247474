"""What is taken for what: the matrix of classes and predictions, and how each class fares.

Pure functions of class scores and labels; names and shapes are those of common/metrics.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reskd.common.metrics import average_precisions, correct_predictions


def confusion(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    predicted_N: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Videos by class (row) and prediction (column), (K, K + 1); the last one: could not be read.

    A video of several labels is counted in the row of each of them, on the diagonal if its
    prediction is any of them, so that diagonal over row is the accuracy that `mean_class_accuracy`
    averages.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.
    """
    # For results only, like the calibration error: training measures itself without it.
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    right_N = correct_predictions(scores_NK, targets_NK, predicted_N=predicted_N)
    classes = scores_NK.shape[1]
    video, label = np.nonzero(targets_NK)
    taken_for = np.where(predicted_N, scores_NK.argmax(axis=1), classes)[video]
    square = multiclass_confusion_matrix(
        torch.from_numpy(np.where(right_N[video], label, taken_for)),
        torch.from_numpy(label),
        num_classes=classes + 1,
    )
    table: NDArray[np.int64] = square.numpy()[:classes]
    return table


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """How one class fares."""

    videos: int
    right: int
    average_precision: float
    """nan without videos, and where no video of any class could be read."""
    wrong_prediction: int | None
    """Class that its videos are most often taken for; the first of equals; None if for none."""
    wrong_count: int
    """How often."""

    @property
    def accuracy(self) -> float:
        """Share of its videos that are predicted rightly; nan without videos."""
        return self.right / self.videos if self.videos else float("nan")


def class_figures(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    predicted_N: NDArray[np.bool_],
) -> list[ClassFigures]:
    """Every class, in order.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.
    """
    table = confusion(scores_NK, targets_NK, predicted_N)
    precisions_K = average_precisions(scores_NK, targets_NK, predicted_N=predicted_N)
    figures = []
    for label, row in enumerate(table):
        wrong = row[:-1].copy()
        wrong[label] = 0
        figures.append(
            ClassFigures(
                videos=int(row.sum()),
                right=int(row[label]),
                average_precision=float(precisions_K[label]),
                wrong_prediction=int(wrong.argmax()) if wrong.any() else None,
                wrong_count=int(wrong.max()),
            )
        )
    return figures
