"""Which files are videos, and where an annotated one lies: folders are listed once, not per file.

A suffix may differ from the annotation's (.mp4, .webm, .MKV): names are compared without it. A
folder called like the video counts as the folder of its frames.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from typing import NamedTuple

from reskd.common.dataset.frames.folders import IMAGE_SUFFIXES
from reskd.common.dataset.importing.annotations import Row
from reskd.common.storage.system_errors import ABSENT

CONTAINERS = (
    "3g2 3gp asf avi avif divx dv f4v flv gif m2ts m4v mjpeg mkv mov mp4 mpe mpeg mpg mts mxf nut "
    "ogm ogv qt rm rmvb ts vob webm wmv y4m"
)
VIDEO_SUFFIXES = frozenset(f".{name}" for name in CONTAINERS.split())


def is_video(name: str) -> bool:
    """Whether a file's name has the suffix of a video."""
    return suffix_of(name) in VIDEO_SUFFIXES


def is_image(name: str) -> bool:
    """Whether a file's name has the suffix of an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


def video_stem(name: str) -> str:
    """A name without its suffix, if that is one of a video; ids may hold dots of their own."""
    return name[: -len(suffix_of(name))] if is_video(name) else name


def suffix_of(name: str) -> str:
    """The suffix in small letters, with its dot; empty if there is none.

    Plain text instead of a Path: this is asked for every file of large data sets.
    """
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


class FoundFile(NamedTuple):
    """Where a video is, or should be."""

    path: str
    """Relative to the tree's folder; what was looked for first, if nothing was found."""
    problem: str | None
    """Why there is no such video; None if there is."""


class _Listing:
    """The entries of one folder."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        self.subfolders: list[str] = []
        self.has_images = self.has_videos = False
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._add(entry)
        except OSError as error:
            if error.errno not in ABSENT:
                raise  # the system fails; else there is no such folder, and all in it is missing

    def _add(self, entry: "os.DirEntry[str]") -> None:
        if entry.name.startswith("."):
            return
        self.names.add(entry.name)
        if entry.is_dir():
            self.subfolders.append(entry.name)
            self.by_stem[_key(entry.name)].append(entry.name)
        elif is_video(entry.name):
            self.has_videos = True
            self.by_stem[_key(video_stem(entry.name))].append(entry.name)
        elif is_image(entry.name):
            self.has_images = True

    @property
    def is_frame_folder(self) -> bool:
        return self.has_images and not self.has_videos and not self.subfolders


class VideoTree:
    """The videos below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listings: dict[str, _Listing] = {}
        self._anywhere: dict[str, list[str]] | None = None

    def find(self, row: Row) -> FoundFile:
        """Look a video up by each of its names in turn."""
        # Lists made on Windows have paths with backslashes; elsewhere a name may hold one.
        turned = [name.replace("\\", "/") for name in row.files if "\\" in name]
        for name in (*row.files, *turned):
            place = self._find_anywhere(name) if row.anywhere else self._find_at(name)
            if place is not None:
                return place
        return FoundFile(row.files[0], f"no such file below {self.folder}")

    def _find_at(self, name: str) -> FoundFile | None:
        relative = self._relative(name)
        if relative is None:
            return FoundFile(name, f"its path leads out of {self.folder}")
        parent, _, last = relative.rpartition("/")
        listing = self._listing(parent)
        if last in listing.names:
            return FoundFile(relative, None)
        found = listing.by_stem.get(_key(video_stem(last)), [])
        return self._only(relative, [f"{parent}/{one}" if parent else one for one in found])

    def _find_anywhere(self, name: str) -> FoundFile | None:
        if self._anywhere is None:
            self._anywhere = defaultdict(list)
            for path in self._walk("", set()):
                stem = video_stem(path).rpartition("/")[2]
                self._anywhere[_key(stem)].append(path)
        return self._only(name, self._anywhere.get(_key(name), []))

    def _only(self, name: str, found: list[str]) -> FoundFile | None:
        if len(found) > 1:
            return FoundFile(name, f"{len(found)} files could be it: {', '.join(sorted(found))}")
        return FoundFile(found[0], None) if found else None

    def _relative(self, name: str) -> str | None:
        """A listed path from this folder; None if it leads out of it."""
        path = Path(name)
        if path.is_absolute():
            folder = self.folder.absolute()
            if not path.is_relative_to(folder):
                return None
            name = path.relative_to(folder).as_posix()
        relative = normpath(name)
        return None if relative == ".." or relative.startswith("../") else relative

    def _listing(self, relative: str) -> _Listing:
        if relative not in self._listings:
            self._listings[relative] = _Listing(self.folder / relative)
        return self._listings[relative]

    def _walk(self, relative: str, above: set[tuple[int, int]]) -> Iterator[str]:
        """Videos and folders of frames below a folder; links that lead back are not followed."""
        status = (self.folder / relative).stat()
        key = status.st_dev, status.st_ino
        if key in above:
            return
        listing = self._listing(relative)
        prefix = f"{relative}/" if relative else ""
        folders = set(listing.subfolders)
        yield from (prefix + name for name in listing.names - folders if is_video(name))
        for name in listing.subfolders:
            path = prefix + name
            if self._listing(path).is_frame_folder:
                yield path
            else:
                yield from self._walk(path, above | {key})
            del self._listings[path]


def _key(stem: str) -> str:
    # One name may be written with composed letters on disk and decomposed ones in the list.
    return unicodedata.normalize("NFC", stem)
