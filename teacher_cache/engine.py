"""Run stage one: find the missing units, compute them one by one, commit each."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.checkpoints import CheckpointInfo, load_checkpoint
from common.console import Advance, progress, say
from common.distill.arrays import TargetPlan
from common.distill.teacher import Teacher
from common.errors import CacheError, DataError, StoppedShortError
from common.signals import preemptible
from common.specs import Experiment
from common.video.index import VideoEntry, VideoIndex, read_index
from teacher_cache.commits import Commit, read_commits
from teacher_cache.identity import Identity, cache_identity, first_difference
from teacher_cache.manifest import MANIFEST_FILE, Manifest, read_manifest
from teacher_cache.plan import CachePlan
from teacher_cache.unit import answer_videos
from teacher_cache.writer import create_cache, empty_buffers, sole_writer, write_unit

FREE_SPACE_FACTOR = 1.2


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How stage one runs on this machine; nothing here changes a byte of the cache."""

    max_bad: float
    """Share of unreadable videos at which the run stops."""
    threads: int
    """Videos decoded ahead."""
    device: torch.device
    """Where the teacher runs."""
    force: bool
    """Start even if the disk looks too small."""


def run_cache_teacher(
    experiment: Experiment, plan: CachePlan, folder: Path, options: RunOptions
) -> dict[str, Any]:
    """Fill a cache; what earlier runs committed is kept.

    Returns:
        Facts about the now complete cache, for JSON.

    Raises:
        DataError: If the index or the teacher's checkpoint is missing or does not fit.
        CacheError: If the folder holds another experiment's cache.
        StoppedShortError: If too many videos are unreadable or the disk is too small.
        PreemptedError: If a signal asked to stop.
    """
    index = read_index(experiment.data.index)
    model, checkpoint = load_checkpoint(experiment.teacher.checkpoint)
    check_teacher(experiment, checkpoint, index)
    identity = cache_identity(
        experiment,
        index,
        split=experiment.data.train_split,
        weights_sha256=checkpoint.weights_sha256,
    )
    manifest = open_or_create(folder, identity, plan)
    with sole_writer(folder), preemptible():
        commits = read_commits(folder, manifest.layout.num_units)
        missing = [unit for unit in range(manifest.layout.num_units) if unit not in commits]
        if missing and not options.force:
            check_free_space(folder, manifest, missing)
        run = _Run(experiment, folder, index, manifest, plan.targets, options)
        failed = run.fill(Teacher(model, options.device), missing, commits)
    return {
        "cache": str(folder),
        "fingerprint": manifest.fingerprint,
        "videos": manifest.layout.num_videos,
        "views": manifest.layout.num_views,
        "units": manifest.layout.num_units,
        "units_written": len(missing),
        "bytes": sum(manifest.layout.total_bytes(array) for array in manifest.arrays),
        "failed_videos": len(failed),
    }


def check_teacher(experiment: Experiment, checkpoint: CheckpointInfo, index: VideoIndex) -> None:
    """The checkpoint must be the network the experiment describes, for these classes.

    Raises:
        DataError: If it is not.
    """
    folder = experiment.teacher.checkpoint
    if checkpoint.classes != index.classes:
        raise DataError(
            f"The teacher in {folder} was trained for {len(checkpoint.classes)} classes "
            f"({', '.join(checkpoint.classes[:4])}, …), the index {experiment.data.index} has "
            f"{len(index.classes)} ({', '.join(index.classes[:4])}, …). Use the index it was "
            "trained on, or another teacher."
        )
    wanted, held = experiment.teacher.model, checkpoint.model
    if (wanted.recognizer, wanted.backbone, wanted.backbone_args) != (
        held.recognizer,
        held.backbone,
        held.backbone_args,
    ):
        raise DataError(
            f"teacher.model asks for {wanted.recognizer} {wanted.backbone} {wanted.backbone_args}, "
            f"the checkpoint {folder} holds {held.recognizer} {held.backbone} {held.backbone_args}."
        )


def open_or_create(folder: Path, identity: Identity, plan: CachePlan) -> Manifest:
    """The manifest of the cache in a folder, which is made there if the folder is empty.

    Raises:
        CacheError: If the folder holds something else.
    """
    if not (folder / MANIFEST_FILE).exists():
        if folder.exists() and any(folder.iterdir()):
            raise CacheError(
                f"{folder} is not empty and holds no {MANIFEST_FILE}, so it is not a cache. "
                "Name a new folder, or clear this one."
            )
        create_cache(folder, identity=identity, plan=plan.targets, layout=plan.layout)
    manifest = read_manifest(folder)
    difference = first_difference(manifest.identity, identity) or manifest.fits(plan.targets)
    if difference is None and manifest.layout.num_views != plan.layout.num_views:
        difference = (
            f"views.count: the cache has {manifest.layout.num_views}, "
            f"the experiment asks for {plan.layout.num_views}"
        )
    if difference is not None:
        raise CacheError(
            f"{folder} holds the cache of another experiment. First difference: {difference}. "
            "Name another folder, or change the experiment back."
        )
    return manifest


def check_free_space(folder: Path, manifest: Manifest, missing: list[int]) -> None:
    """Refuse to start what cannot end.

    Raises:
        StoppedShortError: If less than 1.2 times the missing units' bytes are free.
    """
    need = sum(
        manifest.layout.object_bytes(array, unit) for unit in missing for array in manifest.arrays
    )
    free = shutil.disk_usage(folder).free
    if free < FREE_SPACE_FACTOR * need:
        raise StoppedShortError(
            f"No space for {folder}: {len(missing)} units need {need / 1e6:.1f} MB, "
            f"{FREE_SPACE_FACTOR} times that must be free, and {free / 1e6:.1f} MB are. Make room "
            "and run the same command again, or start anyway with --force."
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same while units are filled."""

    experiment: Experiment
    folder: Path
    index: VideoIndex
    manifest: Manifest
    targets: TargetPlan
    options: RunOptions

    def fill(
        self, teacher: Teacher, missing: list[int], commits: dict[int, Commit]
    ) -> dict[int, str]:
        """Compute and commit the missing units; returns all failed videos with their reasons."""
        layout = self.manifest.layout
        failed = {video: why for commit in commits.values() for video, why in commit.failed.items()}
        todo = sum(len(layout.videos_of(unit)) for unit in missing)
        say(
            f"{self.folder}: {layout.num_units} units, {len(commits)} finished; "
            f"{todo} videos x {layout.num_views} views to do"
        )
        done = layout.num_videos - todo
        with progress("caching", layout.num_videos, unit="videos", done=done) as advance:
            for unit in missing:
                failed |= self._compute(teacher, unit, failed, advance).failed
        return failed

    def _compute(
        self, teacher: Teacher, unit: int, failed_before: dict[int, str], advance: Advance
    ) -> Commit:
        videos = self.manifest.layout.videos_of(unit)
        entries = self.index.split(self.experiment.data.train_split)
        buffers = empty_buffers(self.manifest, unit)
        failed: dict[int, str] = {}
        answers = answer_videos(
            self.experiment,
            self.index,
            entries[videos.start : videos.stop],
            plan=self.targets,
            teacher=teacher,
            threads=self.options.threads,
        )
        for place, answer in enumerate(answers):
            video = videos.start + place
            if answer.failure is not None:
                failed[video] = answer.failure
                say(f"unreadable: {entries[video].id}: {answer.failure}")
                _check_failures(failed_before | failed, entries, self.options.max_bad)
            for array in self.manifest.arrays:
                rows = answer.rows.get(array.name)
                if rows is None:  # a failed video; its rows are marked, never read
                    rows = np.zeros((self.manifest.layout.num_views, *array.row_shape), array.dtype)
                buffers[array.name].put(place, rows)
            advance()
        return write_unit(self.folder, self.manifest, unit, buffers, failed)


def _check_failures(
    failed: dict[int, str], entries: tuple[VideoEntry, ...], max_bad: float
) -> None:
    if len(failed) <= max_bad * len(entries):
        return
    shown = "\n".join(f"  {entries[video].id}: {why}" for video, why in list(failed.items())[:10])
    raise StoppedShortError(
        f"{len(failed)} of {len(entries)} videos are unreadable, more than the {max_bad:.2%} that "
        f"--max-bad allows:\n{shown}\nMend or remove these files and import the folder again, or "
        "allow more with --max-bad; finished units are kept."
    )
