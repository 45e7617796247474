"""One experiment, one cache, this machine: what every command that runs the teacher starts from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from reskd.common.console import say
from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment, Precision
from reskd.common.models.checkpoint import CheckpointInfo, check_teacher, load_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.teacher_cache.fill.cluster import RayOptions
from reskd.teacher_cache.fill.cut import ClipSource
from reskd.teacher_cache.fill.slices import Slice
from reskd.teacher_cache.format.identity import first_difference, identity_like
from reskd.teacher_cache.format.layout import DECODED_BYTES, MAX_IN_A_ROW
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.format.videos import CachedVideo
from reskd.teacher_cache.read.contents import CacheContents, cache_contents


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How stage one runs on this machine; nothing here decides what is in the cache."""

    max_bad: float
    """Share of unreadable videos at which the run stops."""
    max_in_a_row: int = MAX_IN_A_ROW
    """Unreadable videos one after the other at which it stops: something else is wrong then."""
    threads: int
    """That decode."""
    device: torch.device
    """Where the teacher runs."""
    force: bool
    """Start even if the disk looks too small."""
    batch_clips: int | None = None
    """Clips the teacher sees at once; None takes what suits the device."""
    decoded_bytes: int = DECODED_BYTES
    """Bound of the clips that are decoded ahead."""
    preprocess: Literal["cpu", "device"] = "cpu"
    """Who crops and resizes: the threads that decode, or the teacher's device."""
    part: Slice | None = None
    """Which units this run fills; None fills all."""

    devices: tuple[torch.device, ...] = ()
    """Of workers, one process each; without them this process runs the teacher, on `device`."""
    ray: RayOptions | None = None
    """The cluster whose nodes have workers, instead of this machine."""

    def share_of(self, device: torch.device, *, threads: int, count: int) -> "RunOptions":
        """How one of several workers of a machine runs."""
        return replace(
            self,
            devices=(),
            ray=None,
            device=device,
            threads=threads,
            decoded_bytes=self.decoded_bytes // count,
        )

    def own(self, units: Iterable[int]) -> list[int]:
        """Those of some units that this run fills."""
        return list(units) if self.part is None else self.part.of(units)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One experiment, one cache, this machine."""

    experiment: Experiment
    index: VideoIndex
    entries: Mapping[int, VideoEntry]
    """The cache's videos by row, as the index has them now."""
    folder: Path
    options: RunOptions
    drawn_as: Mapping[int, str] = field(default_factory=dict)
    """By row, ids that views were drawn by, of videos that the index calls something else now."""
    gone: frozenset[int] = frozenset()
    """Rows of videos that the index does not list any more: they cannot be computed."""

    def id_of(self, row: int) -> str:
        """The id that a video's views are drawn by."""
        return self.drawn_as.get(row, self.entries[row].id)

    @property
    def source(self) -> ClipSource:
        """Where its clips come from."""
        return ClipSource(
            experiment=self.experiment,
            index=self.index,
            threads=self.options.threads,
            decoded_bytes=self.options.decoded_bytes,
        )

    @property
    def grouped(self) -> bool:
        """Whether the teacher sees groups of videos instead of each by itself."""
        return self.experiment.teacher.mode == "batch"


def job_on_cache(
    experiment: Experiment, folder: Path, options: RunOptions
) -> tuple[Job, Manifest, Recognizer]:
    """A job on a cache that is there, its manifest, and the teacher's network.

    Raises:
        CacheError: If there is no cache, its cache.json is damaged, or it is another experiment's.
        DataError: If the index or the teacher is missing or does not fit.
    """
    manifest = read_manifest(folder)
    index = read_index(experiment.data.index)
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    check_teacher(experiment, checkpoint, manifest.class_names)
    check_same_teacher(experiment, index, folder, manifest, checkpoint)
    return job_of_rows(experiment, index, folder, manifest, options), manifest, model


def check_same_teacher(
    experiment: Experiment,
    index: VideoIndex,
    folder: Path,
    manifest: Manifest,
    checkpoint: CheckpointInfo | None,
) -> None:
    """Refuse a cache of other outputs than the experiment's teacher would give.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        folder: The cache.
        manifest: Its cache.json.
        checkpoint: What the teacher says of itself; None where it is not at hand.

    Raises:
        CacheError: If it is one.
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    wanted = identity_like(
        manifest.identity, experiment, index, split=manifest.split, teacher=checkpoint
    )
    difference = first_difference(manifest.identity, wanted)
    if difference is not None:
        raise CacheError(
            f"{folder} is the cache of another experiment. First difference: {difference}. Name "
            "the experiment it was written for, change this one back, or name another folder."
        )


def job_of_rows(
    experiment: Experiment,
    index: VideoIndex,
    folder: Path,
    manifest: Manifest,
    options: RunOptions,
    *,
    contents: CacheContents | None = None,
    say_changes: bool = True,
) -> Job:
    """A job on the videos of a cache, wherever the index has them now.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        folder: The cache.
        manifest: Its cache.json.
        options: How it runs here.
        contents: What `cache_contents` gave for these, where it was asked already.
        say_changes: Say what of the data set is not as it was cached.

    Raises:
        CacheError: If the cache's table of videos is damaged; or, of the first format, if the index
            is not the one it was made from.
    """
    if contents is None:
        contents = cache_contents(folder, manifest, index, frames_of=experiment)
    cached, matched = contents.cached, contents.matched
    if say_changes:
        for line in matched.said():
            say(f"{folder}: {line}")
    gone = frozenset(cached.keys() - matched.entries.keys())
    entries = {row: matched.entries.get(row, _as_cached(video)) for row, video in cached.items()}
    return Job(
        experiment=experiment,
        index=index,
        entries=entries,
        folder=folder,
        options=options,
        drawn_as={row: video.id for row, video in cached.items() if video.id != entries[row].id},
        gone=gone,
    )


def _as_cached(video: CachedVideo) -> VideoEntry:
    """A video that is gone, for messages; there is no file to open."""
    return VideoEntry(
        id=video.id,
        path=video.id,
        labels=video.labels,
        split="",
        num_frames=video.num_frames,
        fps=video.fps,
    )


def teacher_for(
    experiment: Experiment,
    model: Recognizer,
    manifest: Manifest,
    device: torch.device,
    *,
    precision: Precision | None = None,
) -> Teacher:
    """The teacher with all outputs that a cache holds; in its precision, or in another one."""
    logit_map = any(array.name.startswith("logit_map") for array in manifest.arrays)
    return Teacher(
        model,
        device,
        mode=experiment.teacher.mode,
        precision=precision or experiment.teacher.precision,
        logit_map=logit_map,
    )
