"""Stored scores in another order of the classes."""

import torch

from reskd.common.distill.class_order import in_class_order

COLUMNS = (2, 0, 1)


def test_scores_move_with_their_classes() -> None:
    logits = torch.tensor([[10.0, 11.0, 12.0]])
    assert in_class_order("logits", logits, COLUMNS).tolist() == [[12, 10, 11]]
    maps = logits.reshape(1, 1, 1, 1, 3)
    assert in_class_order("logit_map", maps, COLUMNS).flatten().tolist() == [12, 10, 11]


def test_class_numbers_name_the_same_classes() -> None:
    ids = torch.tensor([[0, 1, 2]], dtype=torch.uint16)
    moved = in_class_order("logit_map_ids", ids, COLUMNS)
    assert moved.dtype == torch.uint16
    stored, now = "abc", "cab"
    assert [now[number] for number in moved[0].tolist()] == [stored[i] for i in ids[0].tolist()]


def test_what_names_no_class_is_left_alone() -> None:
    features = torch.rand(1, 2, 3)
    assert in_class_order("features", features, COLUMNS) is features
