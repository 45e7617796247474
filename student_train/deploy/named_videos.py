"""The videos that somebody names: files, folders of them, and lists."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from reskd.common.dataset.importing.video_tree import is_image, is_video
from reskd.common.errors import DataError
from reskd.common.storage.kinds import read_file
from reskd.common.storage.system_errors import input_problem

LIST_SUFFIXES: Final = (".txt", ".lst", ".list")
"""Text files with a video on each line."""


def named_videos(names: Iterable[Path]) -> list[Path]:
    """Videos one by one: each file, all files of a folder and what lies below it, those of a list.

    A folder with images, and not of videos, is one video.

    Raises:
        DataError: If a list cannot be read, or there is no video.
    """
    found = []
    for name in names:
        if name.suffix in LIST_SUFFIXES:
            found += read_list(name)
        elif name.is_dir():
            found += _videos_in(name) or [name]
        else:
            found.append(name)
    if not found:
        raise DataError("no video is named")
    return found


def read_list(path: Path) -> list[Path]:
    """The videos of a list, whose paths start from its folder.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        text = read_file(path).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {input_problem(error)}") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return [path.parent / line for line in lines if line.strip()]


def _videos_in(folder: Path) -> list[Path]:
    """Those of a folder of videos in order; none of one of images, which is a video itself."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if any(is_image(file.name) for file in files):
        return []
    return [file for file in files if is_video(file.name)]
