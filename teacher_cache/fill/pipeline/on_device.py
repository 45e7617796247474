"""From what decoding hands on to clips on the teacher's device, and there the crop and resize too.

Their bits are those of the decoding threads.
"""

from dataclasses import replace

from reskd.common.video.clips import cut_union
from reskd.common.video.integer_resize import resize_in_integers
from reskd.teacher_cache.fill.cut import CutVideo
from reskd.teacher_cache.fill.pipeline.lanes import Lanes


def on_device(video: CutVideo, lanes: Lanes, size: int) -> CutVideo:
    """The video with its clips on the device; on CUDA this returns before the copy has begun.

    Args:
        video: With clips, or with the frames that they are yet to be cut from.
        lanes: To the device.
        size: Side of the clips in pixels.
    """
    if video.union is None:
        return replace(video, clips_VT3HW=lanes.send(video.clips_VT3HW))
    union = video.union._replace(frames_NHW3=lanes.send(video.union.frames_NHW3))
    clips = cut_union(union, list(video.params.values()), size=size, resize=resize_in_integers)
    return replace(video, union=None, clips_VT3HW=clips)
