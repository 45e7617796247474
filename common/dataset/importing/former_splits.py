"""Videos keep the split that was drawn for them, whatever they are called when imported again.

A draw goes by names. Were it repeated after a class was renamed, videos would change sides, and a
network would be measured on what it, or its teacher, was trained on.
"""

from collections import Counter
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
    keys = Counter(map(_content, former.videos))
    split_of_content = {
        key: video.split
        for video in former.videos
        if (key := _content(video)) is not None and keys[key] == 1
    }

    def kept(video: VideoEntry) -> str:
        known = split_of_id.get(video.id) or split_of_content.get(_content(video))
        return known or video.split

    videos = (replace(video, split=kept(video)) for video in index.videos)
    ordered = sorted(videos, key=lambda video: (video.split, video.id))
    return replace(index, videos=tuple(ordered))


def _content(video: VideoEntry) -> Hashable:
    return None if video.content is None else (video.content, video.num_frames, video.fps)
