"""Which cache a student may learn from: that of its very teacher, and nothing held out.

Compared is what the student uses, no more: an index may have other labels, names and videos than
when the teacher ran, and targets that no loss reads may be encoded in any way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from reskd.common.console import say
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.distill.arrays import ArraySpec
from reskd.common.distill.class_order import CLASS_NUMBERS, CLASS_SCORES, in_class_order
from reskd.common.distill.targets import ARRAYS_OF_TARGET, arrays_needed, plan_targets
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment, LossSpec
from reskd.common.models.checkpoint import CheckpointInfo, read_checkpoint_info
from reskd.common.models.checkpoint_record import CONFIG_FILE
from reskd.student_train.data.joined_readers import JoinedReaders, MoreCache, own_name
from reskd.teacher_cache.format.identity import first_difference, identity_like
from reskd.teacher_cache.format.match import MatchedVideos
from reskd.teacher_cache.format.sources import check_sources
from reskd.teacher_cache.read.contents import matched_videos
from reskd.teacher_cache.read.reader import CacheReader


@dataclass(frozen=True)
class TrainingCache:
    """A cache as one training uses it. Videos go by the number of their row."""

    reader: CacheReader
    entries: Mapping[int, VideoEntry]
    """What the index says now of the videos that both have."""
    columns: tuple[int, ...] | None = None
    """For each class of the index its place in the stored scores; None where that is the same."""
    frames: bool = False
    """Whether the network's input is read from the cache, so that no video is opened."""
    more: tuple[MoreCache, ...] = ()
    """Further teachers' caches of the same views."""

    @cached_property
    def videos(self) -> list[int]:
        """Those that have rows in all caches and are in the index."""
        usable = [video for video in self.reader.usable_videos if video in self.entries]
        return [video for video in usable if all(video in cache.rows for cache in self.more)]

    @cached_property
    def rows(self) -> CacheReader | JoinedReaders:
        """Reads the rows of all caches."""
        return JoinedReaders(self.reader, self.more) if self.more else self.reader

    def in_index_order(self, name: str, rows: Tensor) -> Tensor:
        """Targets with their classes in the order of the index; themselves where they are.

        Raises:
            CacheError: If they name a class that the cache does not have.
        """
        number, own = own_name(name)
        reader = self.reader if number == 1 else self.more[number - 2].reader
        columns = self.columns if number == 1 else self.more[number - 2].columns
        if own in CLASS_NUMBERS:
            _check_class_numbers(reader, own, rows)
        return rows if columns is None else in_class_order(own, rows, columns)


def _check_class_numbers(reader: CacheReader, name: str, rows: Tensor) -> None:
    """A cache from elsewhere may name any class; a loss would look for it in memory."""
    classes, largest = len(reader.manifest.class_names), int(rows.numpy().max(initial=0))
    if largest >= classes:
        raise CacheError(
            f"Cache {reader.folder}: array {name} names class {largest} of {classes}. No teacher "
            "has said that; write the cache again."
        )


def open_cache(
    experiment: Experiment,
    index: VideoIndex,
    folder: Path,
    *,
    losses: LossSpec,
    views_only: bool,
    allow_incomplete: bool,
) -> TrainingCache:
    """Open the store of this teacher and these videos, or say what differs.

    The teacher's weights need not be here: if they are absent, only the cache's own record of them
    exists. The decoder matters only where frames are decoded again.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        folder: The cache.
        losses: What the student learns from; not the experiment's where options say otherwise.
        views_only: Nothing but its views will be used, to be replayed; it need not hold targets.
        allow_incomplete: Accept that units or videos are missing.

    Raises:
        CacheError: If the cache is damaged, another experiment's, or of a split that is held out;
            if it lacks videos of the index, or its class scores are of other classes.
        DataError: If there is a teacher and its checkpoint is damaged.
        StoppedShortError: If units are missing and that is not allowed.
    """
    reader = CacheReader(folder)
    manifest = reader.manifest
    _check_split(reader, experiment)
    frames = not views_only and holds_frames(reader, experiment)
    needed = [] if views_only else _wanted_arrays(experiment, losses, reader, frames=frames)
    if experiment.targets.frames is not None and not frames and not views_only:
        say(f"{folder} holds no frames of the student's size: its views are cut from the videos")
    targets = [array for array in needed if array.name not in ("frames", "views")]
    ignore = [] if targets or views_only else ["teacher"]  # its frames and views alone are used
    if frames:
        ignore.append("decoder")
    wanted = identity_like(
        manifest.identity,
        experiment,
        index,
        split=experiment.data.train_split,
        teacher=_teacher_info(experiment),
        with_pixels=not frames,  # else a frame store need not be here either
    )
    difference = first_difference(manifest.identity, wanted, ignore=tuple(ignore))
    if difference is not None:
        raise CacheError(
            f"{folder} is not the cache of this experiment. First difference: {difference}. Use "
            "the experiment it was written with, or write a cache with `reskd cache-teacher`."
        )
    if targets:
        check_sources(folder, manifest, experiment)
    _check_holds(reader, experiment, needed)
    if not allow_incomplete:
        reader.require_complete()
    matched = matched_videos(
        folder,
        manifest,
        index,
        failed=reader.failed,
        frames_of=None if frames else experiment,
    )
    for line in matched.said():
        say(f"{folder}: {line}")
    _check_videos(folder, matched, allow_incomplete=allow_incomplete)
    columns = None
    if {array.name for array in targets} & (CLASS_SCORES | CLASS_NUMBERS):
        columns = class_columns_of(reader, index, matched)
    return TrainingCache(reader, matched.entries, columns, frames)


def holds_frames(reader: CacheReader, experiment: Experiment) -> bool:
    """Whether a cache holds the student's input, so that no video has to be decoded."""
    size = experiment.required_student().size
    shape = (experiment.clip.num_frames, 3, size, size)
    return any(one.name == "frames" and one.row_shape == shape for one in reader.manifest.arrays)


def _teacher_info(experiment: Experiment) -> CheckpointInfo | None:
    folder = experiment.teacher.checkpoint
    if (folder / CONFIG_FILE).exists():
        return read_checkpoint_info(folder)
    say(f"no teacher in {folder}: trusting the cache's record of it")
    return None


def _check_split(reader: CacheReader, experiment: Experiment) -> None:
    held, wanted = reader.manifest.split, experiment.data.train_split
    if held != wanted:
        raise CacheError(
            f"{reader.folder} holds the teacher's targets for split {held!r}, but data.train_split "
            f"is {wanted!r}. Targets of any other split are kept for agreement metrics only, a "
            "student must not learn from them: it would be measured on what it was shown. Name "
            f"the cache of split {wanted!r}, or write it with `reskd cache-teacher`."
        )


def _wanted_arrays(
    experiment: Experiment, losses: LossSpec, reader: CacheReader, *, frames: bool
) -> list[ArraySpec]:
    """The arrays that the losses read, as the experiment asks for them; others play no part."""
    names = arrays_needed(losses)
    left_out: dict[str, Any] = {
        target: None
        for target, own in ARRAYS_OF_TARGET.items()
        if target != "views" and not set(own) & set(names)
    }
    if frames:
        left_out.pop("frames", None)
    asked = replace(
        experiment,
        targets=replace(experiment.targets, **left_out),
        student=replace(experiment.required_student(), losses=losses),
    )
    planned = plan_targets(asked, num_classes=len(reader.manifest.class_names))
    return list(planned.arrays)


def _check_holds(reader: CacheReader, experiment: Experiment, needed: list[ArraySpec]) -> None:
    manifest, folder = reader.manifest, reader.folder
    held, wanted = manifest.layout.num_views, experiment.views.count
    if held < wanted:
        raise CacheError(
            f"{folder} has {held} views of every video, the experiment asks for {wanted} "
            f"(views.count). Add them with `reskd cache extend {folder} --views {wanted}`, or "
            f"train on those there are with -o views.count={held}."
        )
    difference = manifest.fits(needed)
    if difference is None:
        return
    name = difference.split()[1].rstrip(":")
    target = next(target for target, own in ARRAYS_OF_TARGET.items() if name in own)
    if not {array.name for array in manifest.arrays} & set(ARRAYS_OF_TARGET[target]):
        remedy = f"Add it with `reskd cache extend {folder} --targets {target}`"
    else:
        remedy = (
            "One encoding of a target fits into a cache: change the experiment back, or write "
            "another cache"
        )
    raise CacheError(
        f"{folder} does not hold what the student's losses need. First difference: {difference}. "
        f"{remedy}; or set the weight of the loss that needs it to 0."
    )


def _check_videos(folder: Path, matched: MatchedVideos, *, allow_incomplete: bool) -> None:
    if not matched.new:
        return
    if not allow_incomplete:
        raise CacheError(f"{matched.lack(folder)} Or train without them with --allow-incomplete.")
    say(f"{matched.lack(folder)} They are left out.")


def class_columns_of(
    reader: CacheReader, index: VideoIndex, matched: MatchedVideos
) -> tuple[int, ...] | None:
    """Where the stored scores have the classes of the index; None where they are in its order.

    Raises:
        CacheError: If the classes of the two do not belong together one to one.
    """
    cached, columns = reader.manifest.class_names, matched.columns
    if columns is None:
        raise CacheError(
            f"{reader.folder} holds class scores of {len(cached)} classes "
            f"({', '.join(cached[:4])}, …), which are not those of the index one to one "
            f"({len(index.classes)}: {', '.join(index.classes[:4])}, …). Import the videos with "
            "the former classes (--classes), or train on feature maps alone "
            "(student.losses.logit_kd: 0, student.losses.logit_map_kl: 0)."
        )
    return None if columns == tuple(range(len(columns))) else columns
