"""Opening videos: who reads them, and which are never tried.

data.reader names the user's code  it opens the video, wherever that lies
data.frames names a frame store    the frames kept in it are the video; its file is not touched
the video is a folder              its numbered images are the video
else                               a decoder opens the file
"""

from pathlib import Path

from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.errors import DataError
from reskd.common.experiment import DataSpec
from reskd.common.video.reader import Decoder, UnreadableVideoError, VideoReader


def open_entry(
    index: VideoIndex, entry: VideoEntry, data: DataSpec, *, num_wanted: int = 0
) -> VideoReader:
    """Open one video of an index; usable in a `with` statement.

    Args:
        index: Where it is listed.
        entry: The video.
        data: Says who decodes, or which frame store holds the frames.
        num_wanted: Frames that all views of the video take, as the experiment says; a decoder is
            chosen for speed by it, with the same pixels.

    Raises:
        UnreadableVideoError: If it is not a whole, decodable video, or in quarantine: then it is
            not touched, since it may hang a decoder or end the process. With a frame store: if
            the video could not be read when the store was made, or what is kept is damaged.
        StoppedShortError: If the system cannot read it (common/video/attempts.py).
        DataError: If data.reader is not that of the index, if the decoder asked for is not
            installed, or there is no such frame store, or it was made without this video.
        ExperimentError: If the user's code is not there, or not trusted.
    """
    path = index.path_of(entry)
    if (reason := index.quarantine.get(entry.id)) is not None:
        raise UnreadableVideoError(path, "quarantine", reason)
    if data.reader != index.reader:
        raise DataError(
            f"The videos of {data.index} are opened by {index.reader or 'no code of yours'}, and "
            f"data.reader is {data.reader or 'null'}: set it to {index.reader or 'null'} in the "
            "experiment."
        )
    if data.reader is not None:
        from reskd.common.dataset.own_reader import open_shelved

        return open_shelved(data.reader, index.root, entry.path)
    if data.frames is not None:
        # Imported here: whoever opens no images needs neither h5py nor torch.
        from reskd.common.dataset.frames.store import open_kept

        return open_kept(data.frames, entry.id)
    return open_path(path, data.decoder, num_wanted=num_wanted, root=index.root)


def open_path(
    path: Path, decoder: Decoder = "auto", *, num_wanted: int = 0, root: Path | None = None
) -> VideoReader:
    """Open a video file, or a folder of numbered images; usable in a `with` statement.

    Args:
        path: The file or the folder.
        decoder: Who decodes a file.
        num_wanted: See `open_entry`.
        root: Folder of all videos, if it is one of an index.

    Raises:
        UnreadableVideoError: If it is not a whole, decodable video.
        StoppedShortError: If the system cannot read it.
        DataError: If decord is asked for and not installed.
    """
    if path.is_dir():
        from reskd.common.dataset.frames.folders import open_image_folder

        return open_image_folder(path, root)
    # Imported here: stored frames are read where no decoder is installed.
    from reskd.common.video.video_file import open_video

    return open_video(path, decoder, num_wanted=num_wanted, root=root)
