"""Which video, which view, when: pure functions of (seed, epoch), never of workers or time."""

from collections.abc import Sequence
from itertools import chain, pairwise
from math import ceil
from typing import Final, TypeVar

import numpy as np

from reskd.common.rng import keyed_generator

BLOCK_ROWS: Final = 64
"""Most rows of a block, which lie together on disk."""
WINDOW_BLOCKS: Final = 64
"""Fewest blocks that are mixed with each other; for larger batches as many as they have clips."""
WINDOW_ROWS: Final = BLOCK_ROWS * WINDOW_BLOCKS

Item = TypeVar("Item")


def epoch_order(videos: Sequence[int], *, seed: int, epoch: int) -> list[int]:
    """The videos of one epoch in training order: each exactly once."""
    permutation = keyed_generator(seed, "order", epoch).permutation(len(videos))
    return [videos[position] for position in permutation]


def block_order(videos: Sequence[int], *, seed: int, epoch: int, batch_size: int) -> list[int]:
    """The same where rows that lie together on disk are wanted soon after each other.

    A block is a run of neighbouring videos; blocks come in random order and are mixed in a window
    of 4096 rows: with the numbers above one block enters it and one leaves it with every batch, and
    each has one clip in each of 64 batches. So no batch has two clips of a block but by chance,
    which in an index that is sorted by class would mostly be of one class.

    The order is a circle: blocks that have begun when the epoch ends give their other rows at its
    beginning, so the first batches are mixed like all others. What fits into one window is
    shuffled.
    """
    window, block_rows = _window_and_block(batch_size)
    num_blocks = ceil(len(videos) / block_rows)
    if num_blocks <= window:
        return epoch_order(videos, seed=seed, epoch=epoch)
    rng = keyed_generator(seed, "blocks", epoch)
    block, place = np.divmod(np.arange(len(videos)), block_rows)
    enters = rng.permutation(num_blocks) + rng.random(num_blocks)
    turn = np.empty_like(place)
    turn[np.lexsort((rng.random(len(videos)), block))] = place  # the rows of a block at random
    position = (enters[block] + turn * (window / block_rows)) % num_blocks
    order = np.argsort(position, kind="stable")
    # Within a batch, clips that stand together should not be those of the batch before.
    batches = (order[first : first + batch_size] for first in range(0, len(order), batch_size))
    return [videos[number] for batch in batches for number in rng.permutation(batch)]


def first_uses(
    parts: Sequence[Sequence[int]], videos: Sequence[int], *, batch_size: int
) -> list[list[int]]:
    """For each part of an epoch in blocks the videos to read ahead of it: of blocks it begins.

    Args:
        parts: Videos of a process, in the order in which it reads them.
        videos: All that the order was made of.
        batch_size: The same as of the order.

    Returns:
        Videos of `parts`, each once; those of a block together. A block that goes round the end of
        the epoch begins twice.
    """
    _, block_rows = _window_and_block(batch_size)
    block_of = {video: place // block_rows for place, video in enumerate(videos)}
    uses: dict[tuple[int, int], list[int]] = {}
    begins: list[list[list[int]]] = []
    for number, part in enumerate(parts):
        begins.append([])
        half = 2 * number // len(parts)
        for video in part:
            block = block_of[video], half
            if block not in uses:
                uses[block] = []
                begins[-1].append(uses[block])
            uses[block].append(video)
    return [sorted(chain.from_iterable(begun)) for begun in begins]


def _window_and_block(batch_size: int) -> tuple[int, int]:
    """Blocks of a window and rows of a block."""
    window = max(WINDOW_BLOCKS, batch_size)
    return window, max(1, min(BLOCK_ROWS, WINDOW_ROWS // window))


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
