"""Frames decoded from video, where the cache does not hold them or the teacher runs in the step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.errors import CacheError, StoppedShortError
from reskd.common.experiment import Experiment
from reskd.common.own_code import trust_code
from reskd.common.video.clips import cut_clips
from reskd.common.video.preprocess import shrink
from reskd.common.video.reader import UnreadableVideoError
from reskd.common.video.views import ViewParams, draw_view, short_side_size
from reskd.common.worker_processes import start_server_of_workers
from reskd.student_train.data.cache import TrainingCache
from reskd.student_train.data.order import stored_view
from reskd.student_train.data.unreadable import Unreadable
from reskd.student_train.data.video_memory import VideoMemory
from reskd.teacher_cache.read.reader import CacheReader


class LoadedBatch(NamedTuple):
    """A batch as its source of frames has it."""

    videos: list[int]
    """Those that could be read."""
    frames_BT3HW: Tensor | None = None
    """uint8, what the network sees; None where they are still to be gathered from the store."""
    clips_BT3HW: Tensor | None = None
    """uint8 at the teacher's size, where the teacher runs in the step."""


class DecodedFrames:
    """Frames decoded from video: a stored view replayed, or one that is drawn anew.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        entries: Videos to train on, by number.
        size: Side of the frames wanted; smaller than views.size they are made from those.
        replay: Cache whose views are replayed; None draws them.
        num_views: Epoch e takes view e mod this number, stored or drawn as a cache of that many
            would hold it; None draws a fresh view in every epoch.
        keep_clips: Hand over the frames of the teacher's size too.
        workers: Decoding processes; 0 decodes in this one.
        memory_bytes: Decoded videos that each of these processes keeps.
        pinned: Hand frames over in memory that a GPU copies from while the CPU goes on.
        max_bad: Share of unreadable videos at which training stops.
    """

    stored: Sequence[str] = ()

    def __init__(
        self,
        experiment: Experiment,
        index: VideoIndex,
        entries: Mapping[int, VideoEntry],
        *,
        size: int,
        replay: TrainingCache | None,
        num_views: int | None,
        keep_clips: bool,
        workers: int,
        memory_bytes: int,
        pinned: bool,
        max_bad: float,
    ) -> None:
        memory = VideoMemory(memory_bytes)
        self._clips = _ClipDataset(
            experiment,
            index,
            entries,
            size,
            None if replay is None else replay.reader,
            num_views,
            keep_clips,
            memory,
        )
        self.videos: Sequence[int] = list(entries) if replay is None else replay.videos
        self.unreadable = Unreadable(entries, max_bad=max_bad)
        if workers:
            start_server_of_workers()
        self._sampler = _BatchKeys()
        self._loader: DataLoader[Any] = DataLoader(
            self._clips,
            batch_sampler=self._sampler,
            num_workers=workers,
            collate_fn=_collate,
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pinned,
            worker_init_fn=partial(_trust, experiment.code_names) if workers else None,
            # Else it draws from the generator that dropout uses, and only when workers are started.
            generator=torch.Generator(),
        )
        self.how_to_speed_up = "raise training.workers or training.memory_gb in the experiment"
        if size < experiment.views.size and not keep_clips:  # no cache holds the teacher's frames
            self.how_to_speed_up += ", or train from a cache that holds the frames (targets.frames)"

    def read(self, batches: list[list[int]], epoch: int) -> Iterator[LoadedBatch]:
        self._sampler.keys = [[(video, epoch) for video in batch] for batch in batches]
        for loaded, failures, stopped in self._loader:
            if stopped is not None:
                raise stopped
            self.unreadable.note(failures, len(loaded.videos))
            yield loaded


def _trust(names: Sequence[str], _worker: int) -> None:
    """A worker may run the code that its training process may."""
    trust_code(*names)


class _Cut(NamedTuple):
    """One clip: what the network sees, and what it was made from where that is wanted."""

    frames_T3HW: Tensor
    clip_T3HW: Tensor | None


_Outcome = _Cut | str | StoppedShortError | CacheError
"""A clip; why a video cannot be read; why the run cannot go on."""


@dataclass(frozen=True)
class _ClipDataset(Dataset[tuple[int, _Outcome]]):
    """(video, epoch) to the clip that this epoch trains on, or the reason why there is none."""

    experiment: Experiment
    index: VideoIndex
    entries: Mapping[int, VideoEntry]
    size: int
    replay: CacheReader | None
    num_views: int | None
    keep_clips: bool
    memory: VideoMemory

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, _Outcome]:
        video, epoch = key
        entry = self.entries[video]
        view = epoch if self.num_views is None else stored_view(epoch, self.num_views)
        try:
            open_file = partial(open_entry, self.index, entry, self.experiment.data)
            with self.memory.open(self.index.path_of(entry), open_file) as opened:
                size = (opened.num_frames, opened.height, opened.width)
                params = self._params(entry, video, view, size)
                clip = cut_clips(opened, [params], size=self.experiment.views.size)[0]
        except UnreadableVideoError as error:
            return video, error.reason
        except (
            CacheError,
            StoppedShortError,
        ) as error:  # raised in a worker it would come with its traceback
            return video, error
        return video, _Cut(shrink(clip, self.size), clip if self.keep_clips else None)

    def _params(
        self, entry: VideoEntry, video: int, view: int, source_size: tuple[int, int, int]
    ) -> ViewParams:
        if self.replay is not None:
            row = self.replay.gather("views", [view], [video], self.replay.empty("views", 1))[0]
            return self._stored(row, entry, view, source_size)
        num_frames, height, width = source_size
        return draw_view(
            clip=self.experiment.clip,
            views=self.experiment.views,
            video_id=entry.id,
            view=view,
            num_frames=num_frames,
            height=height,
            width=width,
        )

    def _stored(
        self,
        row: NDArray[np.int32],
        entry: VideoEntry,
        view: int,
        source_size: tuple[int, int, int],
    ) -> ViewParams:
        """A view of the cache, if it can be one of this video."""
        assert self.replay is not None
        _, height, width = source_size
        expected = short_side_size(height, width, self.experiment.views.short_side)
        problem = None
        try:
            params = ViewParams.from_row(row)
            if (size := (params.frame_height, params.frame_width)) == expected:
                return params
            problem = f"it was cut from frames of {size} pixels, these have {expected}"
        except ValueError as error:
            problem = str(error)
        raise CacheError(
            f"Cache {self.replay.folder}: what it holds as view {view} of {entry.id} cannot be cut "
            f"from this video: {problem}. `reskd cache verify {self.replay.folder} --level "
            "semantic` compares stored views with those that were drawn."
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
    samples: list[tuple[int, _Outcome]],
) -> tuple[LoadedBatch, dict[int, str], StoppedShortError | CacheError | None]:
    cuts = {video: cut for video, cut in samples if isinstance(cut, _Cut)}
    failures = {video: reason for video, reason in samples if isinstance(reason, str)}
    ending = StoppedShortError, CacheError
    stopped = next((error for _, error in samples if isinstance(error, ending)), None)
    if not cuts:
        return LoadedBatch([]), failures, stopped
    frames = torch.stack([cut.frames_T3HW for cut in cuts.values()])
    clips = [cut.clip_T3HW for cut in cuts.values() if cut.clip_T3HW is not None]
    loaded = LoadedBatch(list(cuts), frames, torch.stack(clips) if clips else None)
    return loaded, failures, stopped
