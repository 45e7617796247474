"""How far accuracies may be trusted: intervals by bootstrap, calibration, agreement.

Pure functions of class scores and labels; names and shapes are those of common/metrics.py.

A bootstrap draws as many videos as there are, with replacement, measures again, and repeats; the
interval spans the middle 95 % of what was measured (percentile bootstrap). It says how much of a
figure is owed to which videos happened to be in the split. It knows nothing of another training
seed, which often changes a student more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from reskd.common.metrics import correct_predictions, mean_average_precision, top_k_hits
from reskd.common.rng import keyed_generator

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
CALIBRATION_BINS: Final = 15
MAP_NUMBERS: Final = 1_000_000_000
"""Most scores that all resamples of mean average precision sort together ..."""
MAP_LEAST_RESAMPLES: Final = 200
"""... but there are at least so many. 20 000 videos of 400 classes: 200 resamples, seconds."""
_CHUNK_NUMBERS: Final = 4_000_000
"""Numbers that are in memory together, as counts of resamples."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a figure lies with a confidence of 95 %; nan where it is not defined."""

    low: float
    high: float
    resamples: int
    """From how many draws it was made."""


def accuracy_intervals(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    predicted_N: NDArray[np.bool_],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Intervals of top1, top5, mean_class_accuracy and mean_average_precision.

    Videos are drawn together with all of their labels. A class that no drawn video has is left out
    of the means of that draw; a draw without a predicted video has no mean average precision.

    Mean average precision is special in two ways. There are fewer draws where N x K is large
    (`map_resamples`). And a video that is drawn twice stands beside itself, which makes precision
    better than it is, the more the fewer videos a class has; so that interval is moved by as much
    as the mean of the draws lies above the figure.

    Args:
        scores_NK: See common/metrics.py.
        targets_NK: See there.
        predicted_N: See there.
        seed: Key of the draws. Equal seeds and N draw the same videos.
        resamples: Draws.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.
    """
    hits = [top_k_hits(scores_NK, targets_NK, k=k, predicted_N=predicted_N) for k in (1, 5)]
    right_N = correct_predictions(scores_NK, targets_NK, predicted_N=predicted_N)
    videos_NK = targets_NK.astype(np.float32)
    right_NK = videos_NK * right_N[:, np.newaxis]

    def class_accuracy(counts_RN: NDArray[np.float32]) -> NDArray[np.float64]:
        return _mean_of_present(counts_RN @ right_NK, counts_RN @ videos_NK)

    videos = len(scores_NK)
    fewer = map_resamples(*scores_NK.shape, resamples=resamples)
    precision = _ResampledPrecision(scores_NK, targets_NK, predicted_N)
    figure = mean_average_precision(scores_NK, targets_NK, predicted_N=predicted_N)
    return {
        "top1": mean_interval(hits[0], seed=seed, resamples=resamples),
        "top5": mean_interval(hits[1], seed=seed, resamples=resamples),
        "mean_class_accuracy": _interval(class_accuracy, videos, seed, resamples),
        "mean_average_precision": _interval(precision, videos, seed, fewer, figure=figure),
    }


def map_resamples(videos: int, classes: int, *, resamples: int = RESAMPLES) -> int:
    """Draws that mean average precision gets: all of them where that takes seconds."""
    return min(resamples, max(MAP_LEAST_RESAMPLES, MAP_NUMBERS // (videos * classes)))


def mean_interval(
    values_N: NDArray[np.bool_] | NDArray[np.float32],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Of the mean over videos; of bools it is the share of videos for which something holds."""
    values = values_N.astype(np.float32)
    return _interval(
        lambda counts_RN: (counts_RN @ values).astype(float) / len(values),
        len(values),
        seed,
        resamples,
    )


def paired_difference(
    first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]
) -> tuple[float, Interval]:
    """How much larger the first share is, measured on the same videos in every draw.

    What both networks get right or wrong cancels, so this interval is narrower than those of the
    two shares suggest.

    Returns:
        The difference and its interval.

    Raises:
        ValueError: If the two are not of the same videos.
    """
    if first_N.shape != second_N.shape:
        raise ValueError(f"not of the same videos: {first_N.shape} and {second_N.shape}")
    difference_N = first_N.astype(np.float32) - second_N
    return float(difference_N.mean()), mean_interval(difference_N)


def calibration_error(
    scores_NK: NDArray[np.floating],
    targets_NK: NDArray[np.bool_],
    predicted_N: NDArray[np.bool_],
) -> float:
    """Expected calibration error: how far a prediction's probability is from how often it is right.

    Predictions are put into bins of equal width by their probability; the gaps between mean
    probability and share of right ones are averaged with the bins' sizes as weights. Videos that
    could not be read have no prediction and are left out. Bins are closed below; the last one holds
    1 as well.

    Returns:
        A share in [0, 1]; nan where no video could be read.

    Raises:
        ValueError: If shapes do not fit, or a score is not finite.

    Source: Naeini, Cooper, Hauskrecht 2015; Guo et al. 2017, arXiv:1706.04599, section 2. The bins
    are torchmetrics'. Its multiclass form knows one label per video, so the binary one is asked
    whether predictions are right.
    """
    # A second's work, for results only: training measures itself without it.
    from torchmetrics.functional.classification import binary_calibration_error

    right_N = correct_predictions(scores_NK, targets_NK, predicted_N=predicted_N)[predicted_N]
    if not len(right_N):
        return float("nan")
    stated_N = scores_NK.max(axis=1)[predicted_N].astype(np.float64)
    # torchmetrics gives 1 a bin of its own, and takes anything above it (a mean may round there)
    # as a sign that all are logits.
    stated_N = np.minimum(stated_N, np.nextafter(1, 0))
    return binary_calibration_error(
        torch.from_numpy(stated_N),
        torch.from_numpy(right_N.astype(np.int64)),
        n_bins=CALIBRATION_BINS,
    ).item()


def agreements(
    scores_NK: NDArray[np.floating],
    predicted_N: NDArray[np.bool_],
    teacher_NK: NDArray[np.floating],
    teacher_predicted_N: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether two networks take a video for the same class, right or wrong, (N,).

    Where either could not read it they do not agree.
    """
    same_N: NDArray[np.bool_] = scores_NK.argmax(axis=1) == teacher_NK.argmax(axis=1)
    return same_N & predicted_N & teacher_predicted_N


class _ResampledPrecision:
    """Mean average precision of resamples, without sorting again.

    Drawing a video several times moves no score, so each class is sorted once. Precision counts
    only where a video of the class is found, so of the others it is enough to know how many were
    drawn between two such places.
    """

    def __init__(
        self,
        scores_NK: NDArray[np.floating],
        targets_NK: NDArray[np.bool_],
        predicted_N: NDArray[np.bool_],
    ) -> None:
        self._scores_NK, self._targets_NK = scores_NK[predicted_N], targets_NK[predicted_N]
        self._predicted_N = predicted_N
        self._videos_NK = targets_NK.astype(np.float32)
        self._classes = np.flatnonzero(self._targets_NK.any(axis=0))

    def __call__(self, counts_RN: NDArray[np.float32]) -> NDArray[np.float64]:
        videos_RK = (counts_RN @ self._videos_NK).astype(float)
        counts_NR = np.ascontiguousarray(counts_RN[:, self._predicted_N].T)
        total_R = np.zeros(len(counts_RN))
        for label in self._classes.tolist():
            area_R = self._class_area(label, counts_NR)
            total_R += area_R / np.maximum(videos_RK[:, label], 1)
        with np.errstate(invalid="ignore"):
            mean_R: NDArray[np.float64] = total_R / (videos_RK > 0).sum(axis=1)
        return np.where(counts_NR.any(axis=0), mean_R, np.nan)

    def _class_area(self, label: int, counts_NR: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sum of the precisions at the drawn and predicted videos of a class."""
        column_N = self._scores_NK[:, label]
        order_N = np.argsort(-column_N, kind="stable")
        own_N = self._targets_NK[order_N, label]
        last_of_equal_N = np.append(np.diff(column_N[order_N]) != 0, True)
        group_N = np.cumsum(np.append(False, last_of_equal_N[:-1]))
        found = np.flatnonzero(own_N)
        first_found = np.flatnonzero(np.append(True, np.diff(group_N[found]) != 0))
        ends = np.flatnonzero(last_of_equal_N)[group_N[found][first_found]]
        # Counts between two ends, then up to each end; of the class alone likewise.
        starts = np.append(0, ends[:-1] + 1)
        passed = np.add.reduceat(counts_NR[order_N[: ends[-1] + 1]], starts, axis=0)
        gained = np.add.reduceat(counts_NR[order_N[found]], first_found, axis=0)
        passed_GR, gained_GR = passed.astype(float).cumsum(axis=0), gained.astype(float)
        found_GR = gained_GR.cumsum(axis=0)
        area_R: NDArray[np.float64] = (gained_GR * found_GR / np.maximum(passed_GR, 1)).sum(axis=0)
        return area_R


def _mean_of_present(
    right_RK: NDArray[np.float32], videos_RK: NDArray[np.float32]
) -> NDArray[np.float64]:
    present_RK = videos_RK > 0
    share_RK = np.where(present_RK, right_RK / np.maximum(videos_RK, 1), 0.0)
    with np.errstate(invalid="ignore"):
        mean_R: NDArray[np.float64] = share_RK.sum(axis=1, dtype=float) / present_RK.sum(axis=1)
    return mean_R


def _interval(
    measure: Callable[[NDArray[np.float32]], NDArray[np.floating]],
    videos: int,
    seed: int,
    resamples: int,
    *,
    figure: float | None = None,
) -> Interval:
    """Percentiles of the draws; with a figure they are moved so that it is the draws' mean."""
    values_R = np.concatenate([measure(counts_RN) for counts_RN in _draws(videos, seed, resamples)])
    values_R = values_R[~np.isnan(values_R)]
    if not len(values_R):
        return Interval(float("nan"), float("nan"), resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values_R.astype(float), [tail, 1 - tail])
    if figure is not None:
        bias = values_R.mean() - figure
        low, high = np.clip([low - bias, high - bias], 0, 1)
    return Interval(float(low), float(high), resamples)


def _draws(videos: int, seed: int, resamples: int) -> Iterator[NDArray[np.float32]]:
    """How often each video is drawn, (R, N), some resamples at a time; the first are always equal.

    float32 counts exactly far beyond any number of videos that fits into memory.
    """
    rng = keyed_generator(seed, "bootstrap")
    at_once = max(1, _CHUNK_NUMBERS // videos)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        counts_RN = np.empty((count, videos), np.float32)
        for row in range(count):
            counts_RN[row] = np.bincount(rng.integers(videos, size=videos), minlength=videos)
        yield counts_RN
