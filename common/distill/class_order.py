"""Stored class scores in another order of the classes, after classes were renamed."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

CLASS_SCORES: Final = frozenset({"logits", "logit_map"})
"""Arrays whose last axis counts classes."""
CLASS_NUMBERS: Final = frozenset({"logit_map_ids"})
"""Arrays of class numbers."""


def in_class_order(name: str, rows: Tensor, columns: Sequence[int]) -> Tensor:
    """One array of targets with its classes in another order.

    Args:
        name: Of the array.
        rows: (B, *row_shape), as stored.
        columns: For each class its place in the stored order; a permutation.

    Returns:
        A copy in the new order, or the array itself where it names no class.
    """
    if name in CLASS_SCORES:
        return rows[..., torch.tensor(columns)]
    if name in CLASS_NUMBERS:
        return torch.tensor(columns).argsort().to(rows.dtype)[rows.long()]
    return rows
