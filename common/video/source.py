"""The videos of an index, opened one at a time: who decodes them, and which are never tried."""

from common.specs import DataSpec
from common.video.index import VideoEntry, VideoIndex
from common.video.reader import UnreadableVideoError, VideoReader, open_video


def open_entry(index: VideoIndex, entry: VideoEntry, data: DataSpec) -> VideoReader:
    """Open one video of an index; usable in a `with` statement.

    Args:
        index: Where it is listed.
        entry: The video.
        data: Says who decodes.

    Raises:
        UnreadableVideoError: If it is not a whole, decodable video, or in quarantine: then it is
            not touched, since it may hang a decoder or end the process.
        DataError: If the decoder asked for is not installed.
    """
    path = index.path_of(entry)
    if (reason := index.quarantine.get(entry.id)) is not None:
        raise UnreadableVideoError(path, "quarantine", reason)
    return open_video(path, data.decoder)
