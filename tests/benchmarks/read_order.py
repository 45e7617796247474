"""What reading in blocks gains where rows come from the disk.

    python -m tests.benchmarks.read_order --json

Two epochs of batches of 64 rows are read in both orders of training (`training.order`), in turns.
`cold`: the system was asked to forget the files before every turn; the disk below may keep them.
`warm`: they are in memory. Each figure is the time in blocks over that of shuffled rows, by the
bytes of a row: below 1, blocks are faster. Nothing is trained meanwhile.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import click
import torch

from reskd.common.console import emit, in_lines
from reskd.common.dataset.index import VideoEntry
from reskd.student_train.data.batches import Batches
from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.decoded_frames import LoadedBatch
from reskd.student_train.data.labels import Labels
from reskd.student_train.data.unreadable import Unreadable
from reskd.student_train.distributed import ProcessGroup
from reskd.teacher_cache.format.layout import Layout
from reskd.teacher_cache.read.reader import CacheReader
from tests.benchmarks.prefetch import forget
from tests.benchmarks.store_read import ARRAY, Case, write_cache
from tests.benchmarks.timing import interleaved, load, ratio

BATCH = 64
EPOCHS = 2
ROW_BYTES = (4 << 10, 32 << 10, 128 << 10)
VIDEOS = 8192
"""Twice the rows of a window."""


class Rows:
    """A source that leaves everything to the store."""

    stored: Sequence[str] = (ARRAY,)
    how_to_speed_up = ""

    def __init__(self, num_videos: int) -> None:
        self.videos: Sequence[int] = range(num_videos)
        self.unreadable = Unreadable({}, max_bad=0.0)

    def read(self, batches: list[list[int]], epoch: int) -> Iterable[LoadedBatch]:
        return map(LoadedBatch, batches)


def batches_of(reader: CacheReader, order: Literal["shuffled", "blocks"]) -> Batches:
    """All rows of a store as training reads them."""
    num_videos = reader.manifest.layout.num_videos
    entries = {
        number: VideoEntry(
            id=str(number), path="", labels=(0,), split="train", num_frames=1, fps=1.0
        )
        for number in range(num_videos)
    }
    return Batches(
        Rows(num_videos),
        Labels(entries, num_classes=1, kind="one_of", seed=0),
        targets=(),
        cache=TrainingCache(reader, entries),
        num_views=1,
        batch_size=BATCH,
        order=order,
        seed=0,
        processes=ProcessGroup(torch.device("cpu")),
    )


def read_through(batches: Batches) -> None:
    """Read every batch, and do nothing with it."""
    for epoch in range(EPOCHS):
        for _ in batches.epoch(epoch):
            pass


def compare(folder: Path, *, row_bytes: int, num_videos: int, rounds: int) -> dict[str, float]:
    """Time in blocks over that of shuffled rows, cold and warm."""
    layout = Layout(num_views=1, block_views=1, num_videos=num_videos, unit_videos=512)
    case = Case(row_bytes=row_bytes, layout=layout, gathers=1, rounds=rounds)
    write_cache(folder, case)
    with CacheReader(folder) as reader:
        shuffled, blocks = batches_of(reader, "shuffled"), batches_of(reader, "blocks")

        contenders: dict[str, Callable[[None], None]] = {
            "shuffled": lambda _: read_through(shuffled),
            "blocks": lambda _: read_through(blocks),
        }
        cold = interleaved(contenders, lambda: forget(folder), rounds=rounds)
        warm = interleaved(contenders, lambda: None, rounds=rounds)
    return {
        "cold": ratio(cold, "blocks", "shuffled"),
        "warm": ratio(warm, "blocks", "shuffled"),
    }


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, as_json: bool) -> None:
    """Compare both orders of training."""
    before, result = load(), {}
    for row_bytes in ROW_BYTES:
        with TemporaryDirectory(prefix="bench-read-order-") as name:
            result[str(row_bytes)] = compare(
                Path(name) / "cache", row_bytes=row_bytes, num_videos=VIDEOS, rounds=rounds
            )
    lines = [f"rows of {size:>7} bytes: {figures}" for size, figures in result.items()]
    emit({**result, "load": [before, load()]}, as_json=as_json, text=in_lines(*lines))


if __name__ == "__main__":
    main()
