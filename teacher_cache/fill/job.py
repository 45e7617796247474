"""One experiment, one cache, this machine: what every command that runs the teacher starts from."""

from dataclasses import dataclass
from pathlib import Path

import torch

from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment, Precision
from reskd.common.models.checkpoint import check_teacher, load_checkpoint
from reskd.common.models.recognizer import Recognizer
from reskd.teacher_cache.fill.cut import ClipSource
from reskd.teacher_cache.format.identity import cache_identity, first_difference
from reskd.teacher_cache.format.layout import DECODED_BYTES
from reskd.teacher_cache.format.manifest import Manifest, read_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How stage one runs on this machine; nothing here decides what is in the cache."""

    max_bad: float
    """Share of unreadable videos at which the run stops."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One experiment, one cache, this machine."""

    experiment: Experiment
    index: VideoIndex
    entries: tuple[VideoEntry, ...]
    """Videos of the cached split."""
    folder: Path
    options: RunOptions

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
    check_teacher(experiment, checkpoint, index)
    wanted = cache_identity(experiment, index, split=manifest.split, teacher=checkpoint)
    difference = first_difference(manifest.identity, wanted)
    if difference is not None:
        raise CacheError(
            f"{folder} is the cache of another experiment. First difference: {difference}. Name "
            "the experiment it was written for with --experiment."
        )
    job = Job(
        experiment=experiment,
        index=index,
        entries=index.split(manifest.split),
        folder=folder,
        options=options,
    )
    return job, manifest, model


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
