"""Which video, which view, when: pure functions of (seed, epoch), never of workers or time."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from reskd.common.rng import keyed_generator

Item = TypeVar("Item")


def epoch_order(videos: Sequence[int], *, seed: int, epoch: int) -> list[int]:
    """The videos of one epoch in training order: each exactly once."""
    permutation = keyed_generator(seed, "order", epoch).permutation(len(videos))
    return [videos[position] for position in permutation]


def cut_batches(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Consecutive batches; the last may be smaller, except that no batch has a single clip.

    BatchNorm cannot be trained on one clip of one position, so a lone last clip joins the batch
    before it.
    """
    batches = [list(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        lone = batches.pop()
        batches[-1] += lone
    return batches


def cut_parts(batch: Sequence[Item], parts: int) -> list[list[Item]]:
    """A batch, or its groups, in at most that many consecutive parts, sizes at most one apart.

    Only a batch that is empty itself has an empty part, one.
    """
    count = max(1, min(parts, len(batch)))
    edges = [len(batch) * part // count for part in range(count + 1)]
    return [list(batch[first:last]) for first, last in pairwise(edges)]


def stored_view(epoch: int, num_views: int) -> int:
    """Epoch e trains on view e mod V of every video.

    Views are drawn independently, so no shuffling is needed, and the rows of one view of a unit lie
    together on disk.
    """
    return epoch % num_views
