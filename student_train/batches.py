"""Batches for training: frames from the store or decoded anew, joined with labels and targets.

Stored frames and targets are read in the training process, one batch ahead. Only where frames are
not stored do worker processes decode videos, and replay a stored view or draw a fresh one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.console import say
from common.errors import StoppedShortError
from common.prefetch import ordered_map
from common.specs import Experiment
from common.video.clips import cut_clips
from common.video.index import VideoEntry, VideoIndex
from common.video.memory import VideoMemory
from common.video.reader import UnreadableVideoError
from common.video.view_ops import shrink
from common.video.view_params import ViewParams, draw_view
from student_train.order import cut_batches, epoch_order, stored_view
from teacher_cache.reader import CacheReader


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step needs, on the CPU."""

    frames_BT3HW: Tensor
    """uint8."""
    labels_B: Tensor
    """int64 class numbers."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """Stored arrays by name, (B, *row_shape); empty when training from labels alone."""


class FrameSource(Protocol):
    """Where a batch's frames come from."""

    @property
    def videos(self) -> Sequence[int]:
        """Numbers of the videos that can be trained on."""
        ...

    def read(self, batches: list[list[int]], epoch: int) -> Iterator[tuple[list[int], Tensor]]:
        """For every batch the videos it could read and their frames (B, T, 3, s, s), uint8."""
        ...


class StoredFrames:
    """The student's input as the cache holds it; no video is opened."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader
        self.videos: Sequence[int] = reader.usable_videos

    def read(self, batches: list[list[int]], epoch: int) -> Iterator[tuple[list[int], Tensor]]:
        view = stored_view(epoch, self._reader.manifest.layout.num_views)

        def gather(videos: list[int]) -> tuple[list[int], Tensor]:
            return videos, gather_rows(self._reader, "frames", view, videos)

        yield from ordered_map(gather, batches, threads=1)


class DecodedFrames:
    """Frames decoded from video: a stored view replayed, or a fresh view for every epoch.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        split: Split to train on.
        size: Side of the frames wanted; smaller than views.size they are made from those.
        replay: Cache whose views are replayed; None draws fresh views.
        workers: Decoding processes; 0 decodes in this one.
        memory_bytes: Decoded videos that each of these processes keeps.
        max_bad: Share of unreadable videos at which training stops.
    """

    def __init__(
        self,
        experiment: Experiment,
        index: VideoIndex,
        split: str,
        *,
        size: int,
        replay: CacheReader | None,
        workers: int,
        memory_bytes: int = 0,
        max_bad: float,
    ) -> None:
        entries = index.split(split)
        memory = VideoMemory(memory_bytes)
        self._clips = _ClipDataset(experiment, index, entries, size, replay, memory)
        self.videos: Sequence[int] = (
            replay.usable_videos if replay is not None else range(len(entries))
        )
        self._allowed_bad = max_bad * len(entries)
        self._failures: dict[int, str] = {}
        self._sampler = _BatchKeys()
        self._loader: DataLoader[Any] = DataLoader(
            self._clips,
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=_collate,
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=workers > 0,
            # Else it draws from the generator that dropout uses, and only when workers are started.
            generator=torch.Generator(),
        )

    def read(self, batches: list[list[int]], epoch: int) -> Iterator[tuple[list[int], Tensor]]:
        self._sampler.keys = [[(video, epoch) for video in batch] for batch in batches]
        for videos, frames, failures in self._loader:
            self._note(failures)
            if videos:
                yield videos, frames

    def _note(self, failures: dict[int, str]) -> None:
        """Unreadable videos are left out, named once, and never replaced by another video."""
        for video, reason in failures.items():
            if video not in self._failures:
                self._failures[video] = reason
                say(f"unreadable, left out: {self._clips.entries[video].id}: {reason}")
        if len(self._failures) > self._allowed_bad:
            raise StoppedShortError(
                f"{len(self._failures)} of {len(self._clips.entries)} videos are unreadable, more "
                "than --max-bad allows. They are listed above: mend or remove them and import the "
                "folder again, or allow more with --max-bad."
            )


class Batches:
    """All epochs of one training run.

    Args:
        source: Frames.
        labels: Class number of every video of the split.
        targets: Names of the arrays to read beside the frames.
        reader: Their cache; None when `targets` is empty.
        batch_size: Clips per batch.
        seed: Key of the order.
    """

    def __init__(
        self,
        source: FrameSource,
        labels: Sequence[int],
        *,
        targets: Sequence[str],
        reader: CacheReader | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self._source, self._labels = source, torch.as_tensor(labels)
        self._targets, self._reader = tuple(targets), reader
        self._batch_size, self._seed = batch_size, seed

    @property
    def clips_per_epoch(self) -> int:
        """Clips of one epoch."""
        return len(self._source.videos)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, in order."""
        order = epoch_order(self._source.videos, seed=self._seed, epoch=epoch)
        for videos, frames in self._source.read(cut_batches(order, self._batch_size), epoch):
            targets: dict[str, Tensor] = {}
            if self._reader is not None:
                view = stored_view(epoch, self._reader.manifest.layout.num_views)
                targets = {
                    name: gather_rows(self._reader, name, view, videos) for name in self._targets
                }
            yield Batch(frames, self._labels[videos], targets)


def gather_rows(reader: CacheReader, name: str, view: int, videos: list[int]) -> Tensor:
    """Rows of one view of several videos as a tensor (B, *row_shape)."""
    buffer = reader.empty(name, len(videos))
    return torch.from_numpy(reader.gather(name, [view] * len(videos), videos, buffer))


@dataclass(frozen=True)
class _ClipDataset(Dataset[tuple[int, Tensor | str]]):
    """(video, epoch) to the clip that this epoch trains on, or the reason why there is none."""

    experiment: Experiment
    index: VideoIndex
    entries: tuple[VideoEntry, ...]
    size: int
    replay: CacheReader | None
    memory: VideoMemory

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Tensor | str]:
        video, epoch = key
        entry = self.entries[video]
        try:
            path = self.index.path_of(entry)
            with self.memory.open(path, self.experiment.data.decoder) as opened:
                size = (opened.num_frames, opened.height, opened.width)
                params = self._params(entry, video, epoch, size)
                clip = cut_clips(opened, [params], size=self.experiment.views.size)[0]
        except UnreadableVideoError as error:
            return video, error.reason
        return video, shrink(clip, self.size)

    def _params(
        self, entry: VideoEntry, video: int, epoch: int, source_size: tuple[int, int, int]
    ) -> ViewParams:
        if self.replay is not None:
            view = stored_view(epoch, self.replay.manifest.layout.num_views)
            row = self.replay.gather("views", [view], [video], self.replay.empty("views", 1))[0]
            return ViewParams.from_row(row)
        num_frames, height, width = source_size
        return draw_view(
            clip=self.experiment.clip,
            views=self.experiment.views,
            video_id=entry.id,
            view=epoch,
            num_frames=num_frames,
            height=height,
            width=width,
        )


class _BatchKeys:
    """The batches of the coming epoch, as a DataLoader wants them."""

    def __init__(self) -> None:
        self.keys: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _collate(
    samples: list[tuple[int, Tensor | str]],
) -> tuple[list[int], Tensor, dict[int, str]]:
    clips = {video: clip for video, clip in samples if isinstance(clip, Tensor)}
    failures = {video: reason for video, reason in samples if isinstance(reason, str)}
    frames = torch.stack(list(clips.values())) if clips else torch.empty(0, dtype=torch.uint8)
    return list(clips), frames, failures
