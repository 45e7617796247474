"""Which cache a student may learn from: that of its very experiment, and nothing held out."""

from pathlib import Path

from reskd.common.console import say
from reskd.common.dataset.index import VideoIndex
from reskd.common.distill.targets import plan_targets
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import CONFIG_FILE, CheckpointInfo, read_checkpoint_info
from reskd.teacher_cache.format.identity import cache_identity, first_difference
from reskd.teacher_cache.read.reader import CacheReader


def open_cache(
    experiment: Experiment,
    index: VideoIndex,
    folder: Path,
    *,
    views_only: bool,
    allow_incomplete: bool,
) -> CacheReader:
    """Open the store of this very experiment, or say what differs.

    The teacher's weights need not be here: if they are absent, only the cache's own record of them
    exists. The decoder matters only where frames are decoded again.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        folder: The cache.
        views_only: Nothing but its views will be used, to be replayed; it need not hold targets.
        allow_incomplete: Accept that units are missing.

    Raises:
        CacheError: If the cache is damaged, another experiment's, or of a split that is held out.
        DataError: If there is a teacher and its checkpoint is damaged.
        StoppedShortError: If units are missing and that is not allowed.
    """
    reader = CacheReader(folder)
    _check_split(reader, experiment)
    teacher: CheckpointInfo | None = None
    if (experiment.teacher.checkpoint / CONFIG_FILE).exists():
        teacher = read_checkpoint_info(experiment.teacher.checkpoint)
    else:
        say(f"no teacher in {experiment.teacher.checkpoint}: trusting the cache's record of it")
    pixels_needed = views_only or not holds_frames(reader)
    wanted = cache_identity(
        experiment,
        index,
        split=experiment.data.train_split,
        teacher=teacher,
        with_pixels=pixels_needed,  # else a frame store need not be here either
    )
    ignore = () if pixels_needed else ("decoder",)
    difference = first_difference(reader.manifest.identity, wanted, ignore=ignore)
    if difference is None and not views_only:
        difference = _target_difference(experiment, reader)
    held, wanted_views = reader.manifest.layout.num_views, experiment.views.count
    if difference is None and held < wanted_views:
        difference = f"views.count: the cache has {held}, the experiment asks for {wanted_views}"
    if difference is not None:
        raise CacheError(
            f"{folder} is not the cache of this experiment. First difference: {difference}. Use "
            "the experiment it was written with, write a cache with `reskd cache-teacher`, or add "
            "what is missing with `reskd cache extend`."
        )
    if not allow_incomplete:
        reader.require_complete()
    return reader


def holds_frames(reader: CacheReader) -> bool:
    """Whether a cache holds the student's input, so that no video has to be decoded."""
    return any(array.name == "frames" for array in reader.manifest.arrays)


def _check_split(reader: CacheReader, experiment: Experiment) -> None:
    held, wanted = reader.manifest.split, experiment.data.train_split
    if held != wanted:
        raise CacheError(
            f"{reader.folder} holds the teacher's targets for split {held!r}, but data.train_split "
            f"is {wanted!r}. Targets of any other split are kept for agreement metrics only, a "
            "student must not learn from them: it would be measured on what it was shown. Name "
            f"the cache of split {wanted!r}, or write it with `reskd cache-teacher`."
        )


def _target_difference(experiment: Experiment, reader: CacheReader) -> str | None:
    """Targets are no identity, but those the experiment names must be there as it names them."""
    classes = reader.manifest.identity["index"]["classes"]
    return reader.manifest.fits(plan_targets(experiment, num_classes=len(classes)))
