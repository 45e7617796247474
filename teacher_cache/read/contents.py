"""What of an index a cache holds, whatever its format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reskd.common.dataset.index import VideoIndex
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment
from reskd.teacher_cache.format.commits import taken_out, taken_out_of
from reskd.teacher_cache.format.identity import frame_digests
from reskd.teacher_cache.format.manifest import Manifest
from reskd.teacher_cache.format.match import MatchedVideos, match_videos
from reskd.teacher_cache.format.videos import CachedVideo, cached_video, read_videos


def cached_videos(folder: Path, manifest: Manifest, index: VideoIndex) -> dict[int, CachedVideo]:
    """The videos of a cache by row; one of the first format has those of its very index.

    Raises:
        CacheError: If its table of videos is damaged; or, of the first format, if the index is not
            the one that it was made from.
    """
    if manifest.videos:
        return dict(read_videos(folder, manifest.videos))
    recorded = manifest.identity.get("index", {}).get("digest")
    if index.digest(manifest.split) != recorded:
        raise CacheError(
            f"{folder} was written before caches kept what tells one video from another, so it is "
            f"known by its index alone, and split {manifest.split!r} of this one is not what was "
            "cached: index.digest differs. Name the index it was made from, or write a new cache, "
            "which later changes of labels and names will not touch."
        )
    return dict(enumerate(map(cached_video, index.split(manifest.split))))


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheContents:
    """The videos of a cache, and where an index has them now: seconds of work for a large one."""

    cached: Mapping[int, CachedVideo]
    """See `cached_videos`."""
    matched: MatchedVideos
    """See `matched_videos`."""


def cache_contents(
    folder: Path, manifest: Manifest, index: VideoIndex, *, frames_of: Experiment | None = None
) -> CacheContents:
    """Both at once; raises as they do."""
    cached = cached_videos(folder, manifest, index)
    matched = matched_videos(folder, manifest, index, cached=cached, frames_of=frames_of)
    return CacheContents(cached=cached, matched=matched)


def _check_labels(folder: Path, cached: Mapping[int, CachedVideo], classes: int) -> None:
    for row, video in cached.items():
        if not all(0 <= label < classes for label in video.labels):
            raise CacheError(
                f"{folder}: its table of videos gives video {row} ({video.id}) labels "
                f"{video.labels}, and cache.json names {classes} classes. It is not to be trusted; "
                "take the cache from where it was made, or write it again."
            )


def matched_videos(
    folder: Path,
    manifest: Manifest,
    index: VideoIndex,
    *,
    cached: Mapping[int, CachedVideo] | None = None,
    failed: Mapping[int, str] | None = None,
    frames_of: Experiment | None = None,
) -> MatchedVideos:
    """Compare the videos of a cache with those of an index.

    Args:
        folder: The cache.
        manifest: Its cache.json.
        index: A video index.
        cached: What `cached_videos` gave for these, where it was asked already: a large table takes
            seconds to read.
        failed: Reasons of the videos that have no rows, where a reader has them; else every record
            is read.
        frames_of: Compare the frames of this experiment's frame store too, if it has one.

    Raises:
        CacheError: See `cached_videos`.
        DataError: If data.frames is no frame store, or one without some of the videos.
    """
    # Listed again, a video that was taken out is a new one.
    lost = taken_out(folder, manifest) if failed is None else taken_out_of(failed)
    if cached is None:
        cached = cached_videos(folder, manifest, index)
    if manifest.videos:
        _check_labels(folder, cached, len(manifest.class_names))
    entries = index.split(manifest.split)
    return match_videos(
        {row: video for row, video in cached.items() if row not in lost},
        entries,
        cached_classes=manifest.class_names,
        classes=index.classes,
        frames=None if frames_of is None else frame_digests(frames_of, entries),
    )
