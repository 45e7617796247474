"""Batches for training: frames from the store or decoded anew, joined with labels and targets.

Whatever the store holds is read in the training process, a few batches ahead (read_ahead.py). Only
where frames are not stored do worker processes decode videos (decoded_frames.py).
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import Final, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.decoded_frames import LoadedBatch
from reskd.student_train.data.labels import Labels
from reskd.student_train.data.order import (
    block_order,
    cut_batches,
    cut_parts,
    epoch_order,
    first_uses,
    stored_view,
)
from reskd.student_train.data.read_ahead import SLOTS, BatchesAndRows, SlotRing
from reskd.student_train.data.unreadable import Unreadable
from reskd.student_train.distributed import ProcessGroup

COMMON: Final = 2
"""Sizes of batches that are worth compiling for: those of full steps, and the last one's."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is computed at once, on the CPU. Good until the next but one is asked for.

    It is a whole training step, or a part of one where gradients are accumulated. It may hold no
    clip at all where no video of it could be read.
    """

    frames_BT3HW: Tensor
    """uint8, what the network in training sees."""
    labels: Tensor
    """int64 class numbers (B,), or float32 (B, K) with 1 for every class that applies."""
    videos: list[int] = field(default_factory=list)
    """Their numbers in the split."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """Stored arrays by name, (B, *row_shape); empty when training from labels alone."""
    clips_BT3HW: Tensor | None = None
    """uint8 at the teacher's size, where the teacher runs in the step."""
    share: float = 1.0
    """Its part of the step of all processes, by the clips that were planned."""
    ends_step: bool = True
    """Whether the step is complete with it."""
    groups: tuple[int, ...] = ()
    """Clips of each group that BatchNorm takes its statistics from, in order; none: all are one."""
    weights: tuple[float, ...] | None = None
    """Part that each group's loss has in that of all; None: each by its clips."""
    common: bool = True
    """Whether its groups are as large as in most batches; for others, compiling does not pay."""
    pieces: tuple[tuple[int, ...], ...] = ()
    """Groups of the pieces that a network computes it in, one after the other; none: at once."""

    def __len__(self) -> int:
        return len(self.labels)


class FrameSource(Protocol):
    """Where a batch's frames come from."""

    stored: Sequence[str]
    """Arrays that are to be gathered beside the targets, since `read` leaves them to the store."""
    how_to_speed_up: str
    """What to change where training waits for these frames, as an order."""
    unreadable: Unreadable
    """Those that could not be read so far."""

    @property
    def videos(self) -> Sequence[int]:
        """Numbers of the videos that can be trained on."""
        ...

    def read(self, batches: list[list[int]], epoch: int) -> Iterable[LoadedBatch]:
        """Every batch, in order, with the videos of it that could be read."""
        ...


class StoredFrames:
    """The student's input as the cache holds it; no video is opened."""

    stored: Sequence[str] = ("frames",)
    how_to_speed_up = "put the cache on a faster disk, best on one of this machine"

    def __init__(self, cache: TrainingCache) -> None:
        self.videos: Sequence[int] = cache.videos
        self.unreadable = Unreadable({}, max_bad=0.0)  # a row of the store is damaged, not bad

    def read(self, batches: list[list[int]], epoch: int) -> Iterable[LoadedBatch]:
        return map(LoadedBatch, batches)


class _Read(NamedTuple):
    """What is left of a part, once it is known which of its videos can be read."""

    share: float
    groups: tuple[int, ...]
    weights: tuple[float, ...] | None


class _Part(NamedTuple):
    """Some clips of a step, before they are read."""

    groups: list[list[int]]
    step_clips: int
    ends_step: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Clips of every group, as planned."""
        return tuple(map(len, self.groups))

    @property
    def videos(self) -> list[int]:
        return [video for group in self.groups for video in group]

    def of(self, videos: Collection[int]) -> _Read:
        """The same with some videos only: no group takes clips of another to fill up.

        Groups count by the clips that were planned, as if each were computed by itself.
        """
        found = [(len(group), sum(video in videos for video in group)) for group in self.groups]
        left = [(planned, clips) for planned, clips in found if clips]
        planned_clips = sum(planned for planned, _ in left) or len(self.videos)
        even = len({planned / clips for planned, clips in left}) <= 1
        return _Read(
            planned_clips / self.step_clips,
            tuple(clips for _, clips in left),
            None if even else tuple(planned / planned_clips for planned, _ in left),
        )


class Batches:
    """All epochs of one training run.

    Args:
        source: Frames.
        labels: Labels of the videos of the split.
        targets: Names of the arrays to read beside the frames.
        cache: Where they are; None when nothing is read from one.
        num_views: V of the views read; None without a cache.
        batch_size: Clips per step.
        accumulation: Parts that a step is cut into, in each process; a short step has fewer.
        batchnorm_group: Clips of the groups that parts are made of; None: a part is one group.
        order: `shuffled`, or `blocks` of rows that lie together in the cache.
        seed: Key of the order.
        processes: This process takes its part of every step; batches will be copied to its device.
    """

    def __init__(
        self,
        source: FrameSource,
        labels: Labels,
        *,
        targets: Sequence[str],
        cache: TrainingCache | None,
        num_views: int | None,
        batch_size: int,
        seed: int,
        processes: ProcessGroup,
        accumulation: int = 1,
        batchnorm_group: int | None = None,
        order: Literal["shuffled", "blocks"] = "shuffled",
    ) -> None:
        self._num_views, self._order = num_views, order
        self._source, self._labels = source, labels
        self._batch_size, self._accumulation, self._seed = batch_size, accumulation, seed
        self._cache, self._processes = cache, processes
        # A process's share of a whole step is in so many groups.
        self._groups = accumulation
        if batchnorm_group is not None:
            self._groups = ceil(batch_size / (processes.world * batchnorm_group))
        counts = Counter(part.sizes for part in self._parts(source.videos))
        self._common = {sizes for sizes, _ in counts.most_common(COMMON)}
        self._ring: SlotRing | None = None
        self._names = names = (*source.stored, *targets)
        if cache is not None and names:
            sizes = (len(part.videos) for part in self._parts(source.videos))
            self._ring = SlotRing(
                cache.rows,
                names,
                max_rows=max(sizes, default=0),
                slots=SLOTS,
                device=processes.device,
            )

    @property
    def clips_per_epoch(self) -> int:
        """Clips of one epoch."""
        return len(self._source.videos)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch; asked for in every one of them."""
        return len(cut_batches(self._source.videos, self._batch_size))

    def planned_clips(self, steps: int) -> int:
        """Clips of the first steps of an epoch, over all processes."""
        return sum(map(len, cut_batches(self._source.videos, self._batch_size)[:steps]))

    @property
    def how_to_speed_up(self) -> str:
        """What to change where training waits for batches, as an order."""
        return self._source.how_to_speed_up

    @property
    def unreadable(self) -> Unreadable:
        """Videos that could not be read so far."""
        return self._source.unreadable

    def epoch(self, epoch: int, *, first_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch, in order; close it if it is not read to the end.

        Args:
            epoch: Which one.
            first_step: Steps before this one are left out.
        """
        parts = self._parts(self._videos_in_order(epoch), first_step)
        loaded = self._source.read([part.videos for part in parts], epoch)
        if self._order == "blocks":
            loaded = self._announced(loaded, parts, epoch)
        with closing(self._with_rows(loaded, epoch)) as batches:
            for part, (batch, stored) in zip(parts, batches, strict=True):
                frames = stored.get("frames", batch.frames_BT3HW)
                labels = self._labels.of(batch.videos, epoch=epoch)
                read = part.of(set(batch.videos))
                yield Batch(
                    torch.empty(0) if frames is None else frames,
                    self._ready_to_copy(labels),
                    batch.videos,
                    self._targets(stored),
                    batch.clips_BT3HW,
                    share=read.share,
                    ends_step=part.ends_step,
                    groups=read.groups,
                    weights=read.weights,
                    common=read.groups == part.sizes and part.sizes in self._common,
                )

    def _targets(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The teacher's, with classes in the order of the index."""
        targets = {name: rows for name, rows in stored.items() if name != "frames"}
        if self._cache is None:
            return targets
        ordered = {name: self._cache.in_index_order(name, rows) for name, rows in targets.items()}
        return {
            name: rows if rows is targets[name] else self._ready_to_copy(rows)
            for name, rows in ordered.items()
        }

    def _ready_to_copy(self, tensor: Tensor) -> Tensor:
        """In memory that a GPU copies from while the CPU goes on."""
        if self._processes.device.type != "cuda":
            return tensor
        return tensor.pin_memory()  # itself where it is already

    def _videos_in_order(self, epoch: int) -> list[int]:
        videos, seed = self._source.videos, self._seed
        if self._order == "shuffled":
            return epoch_order(videos, seed=seed, epoch=epoch)
        return block_order(videos, seed=seed, epoch=epoch, batch_size=self._batch_size)

    def _announced(
        self, batches: Iterable[LoadedBatch], parts: Sequence[_Part], epoch: int
    ) -> Iterator[LoadedBatch]:
        """Each batch when the system was told of the rows of blocks that begin with it."""
        if self._cache is None or self._num_views is None:
            yield from batches
            return
        videos = [part.videos for part in parts]
        ahead = first_uses(videos, self._source.videos, batch_size=self._batch_size)
        view, reader = stored_view(epoch, self._num_views), self._cache.rows
        with ThreadPoolExecutor(1, thread_name_prefix="expect") as pool:
            for batch, run in zip(batches, ahead, strict=True):
                pool.submit(reader.expect, self._names, view, run)
                yield batch

    def _parts(self, order: Sequence[int], first_step: int = 0) -> list[_Part]:
        """This process's parts of the steps of an epoch."""
        return [
            _Part(groups, len(step), ends_step=number + 1 == len(parts))
            for step in cut_batches(order, self._batch_size)[first_step:]
            for parts in [cut_parts(self._own_groups(step), self._accumulation)]
            for number, groups in enumerate(parts)
        ]

    def _own_groups(self, step: list[int]) -> list[list[int]]:
        """As many in every process, none of them empty but that of one without any clip."""
        world = self._processes.world
        shares = cut_parts(step, world)
        own = shares[self._processes.rank] if self._processes.rank < len(shares) else []
        # A short step has fewer groups, not smaller ones, which would be hard on BatchNorm.
        group_clips = ceil(self._batch_size / (world * self._groups))
        wanted = min(self._groups, ceil(len(step) / (world * group_clips)))
        fewest_clips = len(step) // world
        return cut_parts(own, min(wanted, max(1, fewest_clips)))

    def _with_rows(self, batches: Iterable[LoadedBatch], epoch: int) -> BatchesAndRows[LoadedBatch]:
        """Each batch with what the store holds of it."""
        if self._ring is None:
            return ((batch, {}) for batch in batches)
        assert self._num_views is not None, "stored rows have a view number"
        view = stored_view(epoch, self._num_views)
        return self._ring.read(view, batches)
