"""Accuracies: pure functions of class scores and labels.

Everywhere, of N videos and K classes:

- scores_NK: finite scores (N, K), larger is likelier; one row per video.
- targets_NK: bool (N, K), the labels; a video may have several, and then any of them is right.
- predicted_N: bool (N,); False marks a video that could not be read. It counts as predicted wrongly
  and is found by no threshold. Its scores must be there, but say nothing.

torchmetrics (1.4 and 1.9 were compared) gives what is used of it in student_train/evaluate, the
calibration error and the matrix of confusions. These here it computes differently, and is a check
in the tests. Its average precision merges ties as here, but counts a class without positives as 0,
refuses a single class, knows no video without a prediction, takes any score outside [0, 1] (a mean
of probabilities may round to just above 1) as a sign to squash all of them by a sigmoid in float32,
which makes new ties, and takes nine times as long (20 000 videos, 400 classes). Its macro accuracy
is `mean_class_accuracy` with `count_predicted`. Its accuracies know one label per video, and of
equal scores it prefers the first class, which moved top-5 by up to a tenth on scores of few levels.
"""

import numpy as np
from numpy.typing import NDArray


def top_k(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    *,
    k: int,
    predicted_N: NDArray[np.bool_],
) -> float:
    """Share of the videos with one of their labels among the k highest scores, see `top_k_hits`."""
    return float(top_k_hits(scores_NK, targets_NK, k=k, predicted_N=predicted_N).mean())


def top_k_hits(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    *,
    k: int,
    predicted_N: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether one of a video's labels is among its k highest scores, (N,).

    Of equal scores that of the later class is the higher, as in a stable ascending sort.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.

    Source: ResKD reference, top_k_accuracy; its sort is not stable beyond 16 classes.
    """
    _check(scores_NK, targets_NK, predicted_N)
    last = scores_NK.shape[1] - 1
    own_NK = np.where(targets_NK, scores_NK, -np.inf)
    best_N1 = last - own_NK[:, ::-1].argmax(axis=1)[:, np.newaxis]  # the later of equal ones
    score_N1 = np.take_along_axis(scores_NK, best_N1, axis=1)
    later_NK = np.arange(last + 1) > best_N1
    above_N = ((scores_NK > score_N1) | ((scores_NK == score_N1) & later_NK)).sum(axis=1)
    hits_N: NDArray[np.bool_] = (above_N < k) & predicted_N & targets_NK.any(axis=1)
    return hits_N


def mean_class_accuracy(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    *,
    predicted_N: NDArray[np.bool_],
    count_predicted: bool = False,
) -> float:
    """Mean over classes of the share of a class's videos that are predicted rightly.

    A video with several labels belongs to each of these classes, and is right in all of them if the
    prediction is any of its labels. Of equal scores that of the first class is the prediction.

    Args:
        scores_NK: See above.
        targets_NK: See above.
        predicted_N: See above.
        count_predicted: Also count, as 0, classes that no video has but that are predicted. So the
            reference does; the usual mean is over the classes that occur.

    Returns:
        Accuracy in [0, 1]; nan where no class counts.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.

    Source: ResKD reference, mean_class_accuracy (with count_predicted).
    """
    right_N = correct_predictions(scores_NK, targets_NK, predicted_N=predicted_N)
    videos_K = targets_NK.sum(axis=0)
    right_K = (targets_NK & right_N[:, np.newaxis]).sum(axis=0)
    counted_K = videos_K > 0
    if count_predicted:
        counted_K[scores_NK.argmax(axis=1)[predicted_N]] = True
    if not counted_K.any():
        return float("nan")
    return float((right_K[counted_K] / np.maximum(videos_K[counted_K], 1)).mean())


def mean_average_precision(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    *,
    predicted_N: NDArray[np.bool_],
) -> float:
    """Mean over classes of the area under precision against recall, as a sum of steps.

    Videos of equal score in a class pass the threshold together. A class without a video is left
    out of the mean. A video that could not be read is one of its classes' that is never found: it
    takes its share of the recall away and disturbs the precision of no other class.

    Returns:
        mAP in [0, 1], a fraction; nan where no class has a video or no video could be read.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.

    Source: ResKD reference, mean_average_precision; where all videos can be read it equals
    scikit-learn's average_precision_score on the classes that occur. The AR-Net family's mAP does
    not merge ties and counts a class without videos as 0.
    """
    values_K = average_precisions(scores_NK, targets_NK, predicted_N=predicted_N)
    defined_K = ~np.isnan(values_K)
    return float(np.mean(values_K[defined_K])) if defined_K.any() else float("nan")


def average_precisions(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    *,
    predicted_N: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """What `mean_average_precision` is the mean of: (K,), nan for a class without a video.

    Where no video could be read, nothing is known of any class: nan for all of them.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.
    """
    _check(scores_NK, targets_NK, predicted_N)
    values_K = np.full(scores_NK.shape[1], np.nan)
    if not predicted_N.any():
        return values_K
    videos_K = targets_NK.sum(axis=0)
    for k in np.flatnonzero(videos_K):
        own_N = targets_NK[predicted_N, k]
        values_K[k] = _average_precision(scores_NK[predicted_N, k], own_N, videos=videos_K[k])
    return values_K


def correct_predictions(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    *,
    predicted_N: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether the prediction, of equal scores the first class, is one of the labels, (N,).

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.
    """
    _check(scores_NK, targets_NK, predicted_N)
    predictions_N1 = scores_NK.argmax(axis=1)[:, np.newaxis]
    right_N: NDArray[np.bool_] = np.take_along_axis(targets_NK, predictions_N1, axis=1)[:, 0]
    return right_N & predicted_N


def _average_precision(
    scores_N: NDArray[np.floating], targets_N: NDArray[np.bool_], *, videos: int
) -> float:
    """The sum of precision times the recall gained with it, of one class.

    Args:
        scores_N: Of the videos that could be read, at least one.
        targets_N: Which of them are of the class.
        videos: How many the class has, unreadable ones included; at least one.
    """
    order_N = np.argsort(-scores_N, kind="stable")
    # Last place of every run of equal scores: the only places where a threshold can cut.
    ends = np.flatnonzero(np.append(np.diff(scores_N[order_N]) != 0, True))
    found = np.cumsum(targets_N[order_N])[ends]
    gained = np.diff(found, prepend=0) / videos
    return float((gained * found / (ends + 1)).sum())


def _check(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    predicted_N: NDArray[np.bool_],
) -> None:
    shapes = scores_NK.shape, targets_NK.shape, predicted_N.shape
    if scores_NK.ndim != 2 or 0 in scores_NK.shape or shapes[1:] != (shapes[0], shapes[0][:1]):
        raise ValueError(
            f"scores and targets must be (N, K) and predicted (N,), none of them empty, got shapes "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    if targets_NK.dtype != np.bool_ or predicted_N.dtype != np.bool_:
        raise ValueError(
            f"targets and predicted must be bool, got {targets_NK.dtype} and {predicted_N.dtype}"
        )
    if not np.isfinite(scores_NK).all():
        raise ValueError("scores must be finite; some are infinite or not a number")
