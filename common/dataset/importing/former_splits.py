"""Videos keep the split that was drawn for them, whatever they are called when imported again.

A draw goes by names. Were it repeated after a class was renamed, videos would change sides, and a
network would be measured on what it, or its teacher, was trained on.
"""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace

from reskd.common.dataset.index import VideoEntry, VideoIndex


def with_former_splits(former: VideoIndex, index: VideoIndex) -> VideoIndex:
    """The index with the splits of the one it replaces, for every video that both list.

    Args:
        former: What was imported before.
        index: What is imported now; videos that are new to it stay where they were drawn.
    """
    split_of_id = {video.id: video.split for video in former.videos}
    splits_of_content: defaultdict[Hashable, set[str]] = defaultdict(set)
    for video in former.videos:
        splits_of_content[_content(video)].add(video.split)

    def kept(video: VideoEntry) -> str:
        # Content first: an id may have been given to another video since.
        splits = set() if video.content is None else splits_of_content[_content(video)]
        return next(iter(splits)) if len(splits) == 1 else split_of_id.get(video.id, video.split)

    videos = (replace(video, split=kept(video)) for video in index.videos)
    ordered = sorted(videos, key=lambda video: (video.split, video.id))
    return replace(index, videos=tuple(ordered))


def _content(video: VideoEntry) -> Hashable:
    return None if video.content is None else (video.content, video.num_frames, video.fps)
