"""Accuracies: vectors worked out on paper, definitions written out naively, and torchmetrics."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multilabel_average_precision,
)

from reskd.common.metrics import (
    average_precisions,
    mean_average_precision,
    mean_class_accuracy,
    top_k,
)

# Video 0 is right, 1 in second place, 2 (of two labels) by one of them, 3 in last place.
SCORES = np.array(
    [[0.6, 0.2, 0.1, 0.1], [0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]],
    dtype=np.float32,
)
LABELS = [[0], [1], [1, 3], [0]]


def multi_hot(labels: list[list[int]], num_classes: int = 4) -> NDArray[np.bool_]:
    targets = np.zeros((len(labels), num_classes), dtype=np.bool_)
    for video, own in enumerate(labels):
        targets[video, own] = True
    return targets


def everyone(scores: NDArray[Any]) -> NDArray[np.bool_]:
    return np.ones(len(scores), dtype=np.bool_)


def random_case(seed: int, *, labels: int = 3, levels: int = 6) -> tuple[Any, Any]:
    """Scores with many ties and classes without videos."""
    rng = np.random.default_rng(seed)
    videos, classes = int(rng.integers(1, 13)), int(rng.integers(2, 9))
    scores = (rng.integers(levels, size=(videos, classes)) / levels).astype(np.float32)
    own = [rng.choice(classes, size=rng.integers(1, labels + 1)).tolist() for _ in range(videos)]
    return scores, multi_hot(own, classes)


@pytest.mark.parametrize(("k", "expected"), [(1, 2 / 4), (2, 3 / 4), (3, 3 / 4), (4, 1), (5, 1)])
def test_top_k_of_known_scores_matches_hand_values(k: int, expected: float) -> None:
    assert top_k(SCORES, multi_hot(LABELS), k=k, predicted_N=everyone(SCORES)) == expected


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_never_counts_an_unread_video(k: int) -> None:
    predicted = np.array([False, True, True, True])
    with_all = top_k(SCORES, multi_hot(LABELS), k=k, predicted_N=everyone(SCORES))
    without = top_k(SCORES, multi_hot(LABELS), k=k, predicted_N=predicted)
    assert without == with_all - 1 / 4


@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
@settings(deadline=None)
def test_top_k_equals_the_last_k_of_a_stable_sort(seed: int, k: int) -> None:
    scores, targets = random_case(seed)
    hits = 0
    for row, own in zip(scores.tolist(), targets.tolist(), strict=True):
        highest = sorted(range(len(row)), key=lambda place: row[place])[-k:]
        hits += any(own[place] for place in highest)
    assert top_k(scores, targets, k=k, predicted_N=everyone(scores)) == hits / len(scores)


def test_mean_class_accuracy_of_known_scores_matches_hand_values() -> None:
    # Class 0: video 0 right, 3 wrong; class 1: 1 wrong, 2 right by its other label; class 3: right.
    expected = (1 / 2 + 1 / 2 + 1) / 3
    found = mean_class_accuracy(SCORES, multi_hot(LABELS), predicted_N=everyone(SCORES))
    assert found == pytest.approx(expected, abs=1e-12)


def test_class_that_is_predicted_but_never_right_counts_only_if_asked() -> None:
    scores = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    targets = multi_hot([[0], [0], [1], [0]])
    predicted = everyone(scores)
    usual = mean_class_accuracy(scores, targets, predicted_N=predicted)
    reference = mean_class_accuracy(scores, targets, predicted_N=predicted, count_predicted=True)
    assert usual == pytest.approx((2 / 3 + 1) / 2)
    assert reference == pytest.approx((2 / 3 + 1 + 0) / 3)  # class 3 is in neither


def test_unread_video_is_wrong_in_its_class_and_names_no_other() -> None:
    scores = np.eye(3, dtype=np.float32)[[2, 0, 1]]
    targets = multi_hot([[1], [0], [1]], 3)
    predicted = np.array([False, True, True])
    for count_predicted in (False, True):
        found = mean_class_accuracy(
            scores, targets, predicted_N=predicted, count_predicted=count_predicted
        )
        assert found == (1 + 1 / 2) / 2


@pytest.mark.parametrize("seed", range(20))
def test_mean_class_accuracy_of_single_labels_equals_confusion_matrix_and_torchmetrics(
    seed: int,
) -> None:
    scores, targets = random_case(seed, labels=1)
    predictions, labels = scores.argmax(axis=1), targets.argmax(axis=1)
    classes = scores.shape[1]
    confusion = np.zeros((classes, classes))
    for label, prediction in zip(labels, predictions, strict=True):
        confusion[label, prediction] += 1
    occurring = sorted(set(labels.tolist()))
    named = sorted(set(labels.tolist()) | set(predictions.tolist()))
    recall = [confusion[k, k] / max(1, confusion[k].sum()) for k in range(classes)]
    usual = mean_class_accuracy(scores, targets, predicted_N=everyone(scores))
    reference = mean_class_accuracy(
        scores, targets, predicted_N=everyone(scores), count_predicted=True
    )
    assert usual == pytest.approx(np.mean([recall[k] for k in occurring]))
    assert reference == pytest.approx(np.mean([recall[k] for k in named]))
    theirs = multiclass_accuracy(
        torch.from_numpy(predictions),
        torch.from_numpy(labels),
        num_classes=classes,
        average="macro",
    )
    assert reference == pytest.approx(theirs.item(), abs=1e-6)


def test_average_precision_of_known_ranking_matches_hand_value() -> None:
    # Found in places 1, 3 and 4 of five: precisions 1, 2/3 and 3/4, a third of the recall each.
    scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]])
    targets = np.array([[True], [False], [True], [True], [False]])
    found = mean_average_precision(scores, targets, predicted_N=everyone(scores))
    assert found == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=1e-12)


def test_videos_of_equal_score_pass_the_threshold_together() -> None:
    # 0.9: one of two, half the recall at precision 1/2; 0.4: two of four.
    scores = np.array([[0.9], [0.9], [0.4], [0.4]])
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        targets = np.array([[True], [False], [True], [False]])[order]
        found = mean_average_precision(scores, targets, predicted_N=everyone(scores))
        assert found == 0.5


def test_unread_video_is_never_found_whatever_its_scores_say() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]])
    targets = multi_hot([[0], [1], [0], [1]], 2)
    predicted = np.array([True, True, False, True])
    # Class 0: one of its two videos is found, first of all; class 1: 0.8, then 0.5.
    expected = (1 / 2 + 1) / 2
    for said in (0.0, 0.6, 1.0):
        scores[2] = said
        assert mean_average_precision(scores, targets, predicted_N=predicted) == expected


def test_class_of_which_no_video_was_read_counts_as_zero() -> None:
    scores = np.array([[0.9, 0.1], [0.0, 0.0]])
    targets = multi_hot([[0], [1]], 2)
    values = average_precisions(scores, targets, predicted_N=np.array([True, False]))
    assert values.tolist() == [1.0, 0.0]


def test_network_that_was_shown_nothing_has_no_average_precision() -> None:
    # All scores equal, it would else get the share of each class in the videos.
    scores, targets, nobody = np.zeros((3, 3)), multi_hot([[0], [1], [2]], 3), np.zeros(3, np.bool_)
    assert math.isnan(mean_average_precision(scores, targets, predicted_N=nobody))
    assert np.isnan(average_precisions(scores, targets, predicted_N=nobody)).all()
    assert top_k(scores, targets, k=1, predicted_N=nobody) == 0


def test_constant_scores_give_the_share_of_each_class() -> None:
    targets = multi_hot([[0], [0], [0], [1]], 2)
    scores = np.zeros((4, 2))
    found = mean_average_precision(scores, targets, predicted_N=everyone(scores))
    assert found == (3 / 4 + 1 / 4) / 2


def test_class_without_videos_is_left_out_of_the_mean() -> None:
    scores = np.array([[0.9, 0.1, 0.9], [0.2, 0.8, 0.9]])
    targets = multi_hot([[0], [1]], 3)
    assert mean_average_precision(scores, targets, predicted_N=everyone(scores)) == 1.0


def test_no_class_with_videos_gives_nan() -> None:
    none = np.zeros((2, 3), dtype=np.bool_)
    assert math.isnan(mean_average_precision(np.zeros((2, 3)), none, predicted_N=~none[:, 0]))
    assert math.isnan(mean_class_accuracy(np.zeros((2, 3)), none, predicted_N=~none[:, 0] & False))
    assert top_k(np.zeros((2, 3)), none, k=3, predicted_N=~none[:, 0]) == 0


@given(seed=st.integers(0, 10**6), missing=st.integers(0, 3))
@settings(deadline=None)
def test_mean_average_precision_equals_every_threshold_tried(seed: int, missing: int) -> None:
    scores, targets = random_case(seed)
    predicted = np.arange(len(scores)) >= missing
    found = mean_average_precision(scores, targets, predicted_N=predicted)
    values = []
    for k in range(scores.shape[1]):
        column, own = scores[predicted, k].tolist(), targets[predicted, k].tolist()
        area, recall_before, videos = 0.0, 0.0, int(targets[:, k].sum())
        for threshold in sorted(set(column), reverse=True):
            passed = [mine for score, mine in zip(column, own, strict=True) if score >= threshold]
            if videos:
                recall = sum(passed) / videos
                area += (recall - recall_before) * sum(passed) / len(passed)
                recall_before = recall
        if videos:
            values.append(area)
    if predicted.any():
        assert found == pytest.approx(sum(values) / len(values), abs=1e-12)
    else:
        assert math.isnan(found)


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_equals_torchmetrics_where_classes_occur(seed: int) -> None:
    scores, targets = random_case(seed)
    targets[:, ~targets.any(axis=0)] = True  # torchmetrics warns of empty classes and says 0
    theirs = multilabel_average_precision(
        torch.from_numpy(scores), torch.from_numpy(targets).long(), num_labels=scores.shape[1]
    )
    assert theirs is not None
    found = mean_average_precision(scores, targets, predicted_N=everyone(scores))
    assert found == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_with_videos_unread_is_that_of_the_others_by_their_share(
    seed: int,
) -> None:
    scores, targets = random_case(seed)
    scores, targets = np.concatenate([scores, scores]), np.concatenate([targets, targets])
    predicted = np.arange(len(scores)) >= len(scores) // 2
    targets[:, ~targets.any(axis=0)] = True
    theirs = multilabel_average_precision(
        torch.from_numpy(scores[predicted]),
        torch.from_numpy(targets[predicted]).long(),
        num_labels=scores.shape[1],
        average="none",
    )
    assert theirs is not None
    found = average_precisions(scores, targets, predicted_N=predicted)
    np.testing.assert_allclose(found, theirs.numpy() / 2, atol=1e-6)


def test_scores_outside_the_range_of_probabilities_keep_their_order() -> None:
    # As float32 sigmoids, 40 and 50 would be one.
    scores = np.array([[40.0], [50.0]], dtype=np.float32)
    targets = np.array([[False], [True]])
    assert mean_average_precision(scores, targets, predicted_N=everyone(scores)) == 1.0


@pytest.mark.parametrize(
    ("scores", "targets", "predicted"),
    [
        ((3, 4), (3, 5), (3,)),
        ((3, 4), (2, 4), (3,)),
        ((3, 4), (3, 4), (2,)),
        ((0, 4), (0, 4), (0,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    scores: tuple[int, ...], targets: tuple[int, ...], predicted: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="got shapes"):
        top_k(
            np.zeros(scores),
            np.zeros(targets, dtype=np.bool_),
            k=1,
            predicted_N=np.ones(predicted, dtype=np.bool_),
        )


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        mean_average_precision(
            np.array([[np.nan, 1.0]]), multi_hot([[0]], 2), predicted_N=np.array([True])
        )


def test_labels_that_are_not_multi_hot_are_refused() -> None:
    targets: Any = np.array([[1, 0]])
    with pytest.raises(ValueError, match="must be bool, got int64"):
        top_k(np.zeros((1, 2)), targets, k=1, predicted_N=np.ones(1, dtype=np.bool_))
