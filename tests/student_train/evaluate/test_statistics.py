"""Intervals, calibration and confusions against definitions written out here."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskd.common.metrics import mean_average_precision, mean_class_accuracy
from reskd.common.rng import keyed_generator
from reskd.student_train.evaluate.confusions import class_figures, confusion
from reskd.student_train.evaluate.statistics import (
    accuracy_intervals,
    agreements,
    calibration_error,
    map_resamples,
    mean_interval,
    paired_difference,
)
from tests.common.test_metrics import everyone, multi_hot, random_case


def drawn_videos(videos: int, resamples: int) -> list[Any]:
    """The videos of every draw, as the module is to draw them."""
    rng = keyed_generator(0, "bootstrap")
    return [rng.integers(videos, size=videos) for _ in range(resamples)]


@pytest.mark.parametrize("unread", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_intervals_equal_measuring_every_draw_anew(seed: int, unread: int) -> None:
    scores, targets = random_case(seed)
    predicted = np.arange(len(scores)) % 5 >= unread
    found = accuracy_intervals(scores, targets, predicted, resamples=200)
    accuracy, precision = [], []
    for drawn in drawn_videos(len(scores), 200):
        case = scores[drawn], targets[drawn]
        accuracy.append(mean_class_accuracy(*case, predicted_N=predicted[drawn]))
        precision.append(mean_average_precision(*case, predicted_N=predicted[drawn]))
    bias = np.nanmean(precision) - mean_average_precision(scores, targets, predicted_N=predicted)
    expected = np.quantile(accuracy, [0.025, 0.975])
    moved = np.clip(np.nanquantile(precision, [0.025, 0.975]) - bias, 0, 1)
    interval = found["mean_class_accuracy"]
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-6)
    interval = found["mean_average_precision"]
    assert (interval.low, interval.high) == pytest.approx(tuple(moved), abs=1e-6)
    assert interval.resamples == 200


def test_interval_of_a_share_is_that_of_the_binomial_distribution() -> None:
    hits = np.arange(400) < 300
    interval = mean_interval(hits)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert interval.low == pytest.approx(0.75 - half, abs=0.008)
    assert interval.high == pytest.approx(0.75 + half, abs=0.008)


def test_intervals_do_not_depend_on_how_many_draws_are_made_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, targets = random_case(3)
    at_once = accuracy_intervals(scores, targets, everyone(scores), resamples=50)
    monkeypatch.setattr("reskd.student_train.evaluate.statistics._CHUNK_NUMBERS", 3 * len(scores))
    in_parts = accuracy_intervals(scores, targets, everyone(scores), resamples=50)
    assert in_parts == at_once
    other = accuracy_intervals(scores, targets, everyone(scores), resamples=50, seed=1)
    assert other != at_once


def test_nothing_read_has_no_interval_of_mean_average_precision() -> None:
    scores, targets = np.zeros((3, 3), np.float32), multi_hot([[0], [1], [2]], 3)
    found = accuracy_intervals(scores, targets, np.zeros(3, np.bool_), resamples=10)
    assert math.isnan(found["mean_average_precision"].low)
    assert (found["top1"].low, found["top1"].high) == (0, 0)
    classes = class_figures(scores, targets, np.zeros(3, np.bool_))
    assert all(math.isnan(one.average_precision) for one in classes)


def test_nothing_read_and_no_class_have_intervals_all_the_same() -> None:
    scores, none = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.bool_)
    found = accuracy_intervals(scores, none, none[:, 0], resamples=10)
    assert (found["top1"].low, found["top1"].high) == (0, 0)
    assert math.isnan(found["mean_average_precision"].low)
    assert math.isnan(calibration_error(scores, none, none[:, 0]))


def test_mean_average_precision_of_a_large_split_is_drawn_less_often() -> None:
    assert map_resamples(216, 9) == 2000
    assert map_resamples(20_000, 400) == 200
    assert map_resamples(5_000, 200) == 1000


def test_paired_difference_is_surer_than_the_shares_themselves() -> None:
    first = np.arange(100) < 60
    second = np.arange(100) < 55
    difference, interval = paired_difference(first, second)
    assert difference == pytest.approx(0.05)
    assert 0 < interval.low < 0.05 < interval.high < 0.11
    alone = mean_interval(first)
    assert alone.high - alone.low > 2 * (interval.high - interval.low)
    turned, other = paired_difference(second, first)
    assert (turned, other.low) == pytest.approx((-difference, -interval.high))
    with pytest.raises(ValueError, match="not of the same videos"):
        paired_difference(first, second[:50])


def test_calibration_error_of_known_predictions_matches_hand_value() -> None:
    # Bin of 0.6: two predictions, one right; bin of 0.9: two predictions, both right.
    scores = np.array([[0.6, 0.4], [0.62, 0.38], [0.1, 0.9], [0.08, 0.92]])
    targets = multi_hot([[0], [1], [1], [1]], 2)
    expected = (2 * abs(0.61 - 0.5) + 2 * abs(0.91 - 1)) / 4
    assert calibration_error(scores, targets, everyone(scores)) == pytest.approx(expected)
    predicted = np.array([True, False, True, True])  # the wrong one could not be read then
    expected = (abs(0.6 - 1) + 2 * abs(0.91 - 1)) / 3
    assert calibration_error(scores, targets, predicted) == pytest.approx(expected)
    sure = np.array([[1.0, 0.0]])
    found = calibration_error(sure, multi_hot([[0]], 2), everyone(sure))
    assert found == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("unread", [0, 3])
@pytest.mark.parametrize("seed", range(6))
def test_calibration_error_equals_its_definition_written_out(seed: int, unread: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.full(5, 0.4), size=300).astype(np.float32)
    scores[:40] = np.eye(5, dtype=np.float32)[rng.integers(5, size=40)]  # sure of themselves
    scores[7] += np.float32(1e-7)  # a mean may round to above 1
    own = np.where(rng.random(300) < 0.6, scores.argmax(axis=1), rng.integers(5, size=300))
    targets = multi_hot([[label, 4] for label in own.tolist()], 5)
    predicted = np.arange(300) % 10 >= unread
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, labels in zip(scores[predicted].tolist(), targets[predicted].tolist(), strict=True):
        number = max(n for n in range(15) if n / 15 <= max(row))
        bins.setdefault(number, []).append((max(row), labels[row.index(max(row))]))
    gaps = [
        len(some) * abs(np.mean([score for score, _ in some]) - np.mean([hit for _, hit in some]))
        for some in bins.values()
    ]
    found = calibration_error(scores, targets, predicted)
    assert found == pytest.approx(sum(gaps) / predicted.sum(), abs=1e-9)


def test_agreement_asks_for_the_same_prediction_of_both() -> None:
    scores, teacher = np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 1, 1, 2]]
    predicted = np.array([True, True, True, False])
    same = agreements(scores, predicted, teacher, everyone(teacher))
    assert same.tolist() == [True, True, False, False]
    assert agreements(teacher, everyone(teacher), scores, predicted).tolist() == same.tolist()


def test_confusion_of_known_predictions_matches_hand_table() -> None:
    scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0]]
    targets = multi_hot([[0], [0], [0, 2], [2], [1]], 3)
    predicted = np.array([True, True, True, True, False])
    # Video 2 is right in both of its classes; video 4 could not be read.
    assert confusion(scores, targets, predicted).tolist() == [
        [2, 1, 0, 0],
        [0, 0, 0, 1],
        [0, 1, 1, 0],
    ]
    first, second, third = class_figures(scores, targets, predicted)
    assert (first.videos, first.right, first.wrong_prediction, first.wrong_count) == (3, 2, 1, 1)
    assert (second.videos, second.accuracy, second.wrong_prediction) == (1, 0, None)
    assert (third.accuracy, third.wrong_prediction, third.wrong_count) == (0.5, 1, 1)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_class_figures_average_to_the_metrics(seed: int) -> None:
    scores, targets = random_case(seed)
    classes = [
        one
        for one in class_figures(scores, targets, everyone(scores))
        if not math.isnan(one.accuracy)
    ]
    assert np.mean([one.accuracy for one in classes]) == pytest.approx(
        mean_class_accuracy(scores, targets, predicted_N=everyone(scores))
    )
    assert np.mean([one.average_precision for one in classes]) == pytest.approx(
        mean_average_precision(scores, targets, predicted_N=everyone(scores))
    )
    assert confusion(scores, targets, everyone(scores)).sum() == targets.sum()
