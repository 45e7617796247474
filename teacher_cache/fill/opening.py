"""The cache in a folder: made where there is none, refused where it is another experiment's."""

from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from reskd.common.console import say
from reskd.common.dataset.index import VideoIndex
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import CheckpointInfo
from reskd.teacher_cache.fill.job import check_same_teacher
from reskd.teacher_cache.fill.writer import create_cache
from reskd.teacher_cache.format.commits import missing_units
from reskd.teacher_cache.format.identity import cache_identity, videos_to_cache
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, Manifest, read_manifest
from reskd.teacher_cache.format.plan import CachePlan
from reskd.teacher_cache.format.sources import check_sources, sources_of
from reskd.teacher_cache.read.contents import CacheContents, cache_contents


def is_new(folder: Path) -> bool:
    """Whether a cache is still to be made there.

    Raises:
        CacheError: If the folder holds something else.
    """
    if (folder / MANIFEST_FILE).exists():
        return False
    if folder.exists() and any(folder.iterdir()):
        raise CacheError(
            f"{folder} is not empty and holds no {MANIFEST_FILE}, so it is not a cache. "
            "Name a new folder, or clear this one."
        )
    return True


def new_cache(
    experiment: Experiment,
    index: VideoIndex,
    folder: Path,
    plan: CachePlan,
    checkpoint: CheckpointInfo,
) -> bool:
    """Make an empty cache for all videos of a split.

    Returns:
        Whether it was made here: another process, of a machine that sees no locks, may have been
        faster.

    Raises:
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    videos = videos_to_cache(experiment, index.split(plan.split))
    identity = cache_identity(experiment, split=plan.split, teacher=checkpoint, videos=videos)
    try:
        create_cache(
            folder,
            identity=identity,
            plan=plan.targets,
            layout=plan.layout,
            codec=plan.codec,
            videos=videos,
            classes=index.classes,
            sources=sources_of(experiment, num_classes=len(index.classes)),
        )
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST) or is_new(folder):
            raise
        say(f"{folder} was made by another process meanwhile")
        return False
    return True


def cache_of(
    experiment: Experiment,
    index: VideoIndex,
    folder: Path,
    plan: CachePlan,
    checkpoint: CheckpointInfo | None,
) -> tuple[Manifest, CacheContents]:
    """The cache that is there, if it holds what a plan asks for, or will; and its videos.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        folder: Of the cache.
        plan: What is wanted.
        checkpoint: What the teacher says of itself; None where it is not at hand.

    Raises:
        CacheError: If it is another experiment's, or lacks targets or views; or, being finished,
            videos.
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    manifest = read_manifest(folder)
    if manifest.split != plan.split:
        raise CacheError(
            f"{folder} holds split {manifest.split}, and split {plan.split} is to be cached. Name "
            "another folder."
        )
    check_same_teacher(experiment, index, folder, manifest, checkpoint)
    check_sources(folder, manifest, experiment)
    difference = manifest.fits(plan.targets.arrays)
    if manifest.layout.num_views < plan.layout.num_views:
        difference = (
            f"views.count: the cache has {manifest.layout.num_views}, "
            f"the experiment asks for {plan.layout.num_views}"
        )
    if difference is not None:
        raise CacheError(
            f"{folder} does not hold all that the experiment asks for. First difference: "
            f"{difference}. Add it with `reskd cache extend`, name another folder, or change the "
            "experiment back."
        )
    contents = cache_contents(folder, manifest, index, frames_of=experiment)
    matched = contents.matched
    if matched.new and not _unfinished(folder, manifest):
        raise CacheError(matched.lack(folder))
    if matched.new:
        say(f"{matched.lack(folder)} What the cache has begun is finished first.")
    return manifest, contents


def _unfinished(folder: Path, manifest: Manifest) -> bool:
    return any(missing_units(folder, manifest, one) for one in manifest.generations)
