"""A folder of class folders becomes a video index.

    DIR/run/a.mp4  DIR/run/deeper/b.mp4  DIR/jump/c.mp4     split by us
    DIR/train/run/a.mp4  DIR/val/run/b.mp4                  already split (train, val, test)

Looking (`scan_folder`: names and sizes only) is apart from opening the videos (`build_index`).
Nothing is written here, and nothing is left out silently: a file that is no video is listed, an
unreadable video stops the import or stays in the index as one of 0 frames.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from reskd.common.dataset.importing.copies import copies_across
from reskd.common.dataset.importing.probe_journal import ProbeJournal
from reskd.common.dataset.importing.probing import Progress, probe_all
from reskd.common.dataset.importing.report import listing, names
from reskd.common.dataset.importing.video_tree import CONTAINERS, is_video
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.errors import DataError
from reskd.common.video.reader import Decoder

SPLITS = ("train", "val", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundVideo:
    """A video file, not yet opened."""

    id: str
    """Path relative to the scanned folder, with forward slashes."""
    class_name: str
    split: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderScan:
    """What lies in a folder, sorted by name."""

    directory: Path
    classes: tuple[str, ...]
    videos: tuple[FoundVideo, ...]
    skipped: tuple[str, ...]
    """Files in class folders whose suffix is not one of a video, relative to `directory`."""


def import_folder(
    directory: Path,
    *,
    val_fraction: float,
    decoder: Decoder = "auto",
    allow_unreadable: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> VideoIndex:
    """Scan a folder and open every video in it: scan_folder, then build_index."""
    scan = scan_folder(directory, val_fraction=val_fraction)
    return build_index(
        scan,
        decoder=decoder,
        allow_unreadable=allow_unreadable,
        workers=workers,
        progress=progress,
    )


def scan_folder(directory: Path, *, val_fraction: float) -> FolderScan:
    """Find the videos of a folder, their classes and splits, without opening any.

    Args:
        directory: Folder of class folders, or of `train`, `val` and `test` holding class folders.
        val_fraction: Share of each class that becomes split `val`, in [0, 1), where the folder is
            not split. Which ones depends on their ids alone.

    Raises:
        DataError: If the folder's layout does not say which video has which class and split.
        ValueError: If val_fraction is out of range.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    if not directory.is_dir():
        problem = "is a file" if directory.exists() else "does not exist"
        raise DataError(
            f"{directory} {problem}; a folder is needed that holds one folder per class"
        )
    split_folders = _split_folders(directory)
    parents: Mapping[str, Path] = split_folders or {"": directory}
    found = {
        (split, folder.name): _files(folder)
        for split, parent in parents.items()
        for folder in _class_folders(parent)
    }
    videos = {key: [file for file in files if is_video(file.name)] for key, files in found.items()}
    skipped = [file for files in found.values() for file in files if not is_video(file.name)]
    _refuse_empty(directory, videos)
    by_class = {
        key: sorted(file.relative_to(directory).as_posix() for file in files)
        for key, files in videos.items()
    }
    if split_folders:
        _refuse_untrained(by_class)
    else:
        by_class = _divide(by_class, val_fraction)
    scan = FolderScan(
        directory=directory,
        classes=tuple(sorted({class_name for _, class_name in by_class})),
        videos=tuple(
            FoundVideo(id=id_, class_name=class_name, split=split)
            for (split, class_name), ids in sorted(by_class.items())
            for id_ in ids
        ),
        skipped=tuple(sorted(file.relative_to(directory).as_posix() for file in skipped)),
    )
    _refuse_copies(scan)
    return scan


def build_index(
    scan: FolderScan,
    *,
    decoder: Decoder = "auto",
    allow_unreadable: bool = False,
    workers: int | None = None,
    journal: ProbeJournal | None = None,
    progress: Progress | None = None,
) -> VideoIndex:
    """Open every video, and decode its last frame, to learn its length.

    Args:
        scan: What scan_folder found.
        decoder: Who decodes.
        allow_unreadable: Keep a video that cannot be read, with 0 frames and a warning in the log,
            so that it counts as failed later.
        workers: Threads; as many as processors when None.
        journal: What an earlier import learnt, if it was stopped.
        progress: Told after each video, in this thread.

    Raises:
        DataError: If videos are unreadable and that is not allowed.
    """
    paths = {video.id: scan.directory / video.id for video in scan.videos}
    probes = probe_all(paths, decoder=decoder, jobs=workers, progress=progress, journal=journal)
    problems = {id_: probes[id_].problem for id_ in paths if probes[id_].problem is not None}
    if problems and not allow_unreadable:
        raise DataError(
            f"{len(problems)} of {len(paths)} videos in {scan.directory} cannot be read:\n"
            + listing(f"{id_}: {problem}" for id_, problem in problems.items())
            + "\nMend or remove them; or give --allow-unreadable, which keeps them in the index "
            "as failed videos, so that they are counted and never silently dropped"
        )
    for id_, problem in problems.items():
        log.warning("kept as unreadable: %s: %s", id_, problem)
    label_of = {name: label for label, name in enumerate(scan.classes)}
    videos = (
        VideoEntry(
            id=video.id,
            path=video.id,
            labels=(label_of[video.class_name],),
            split=video.split,
            num_frames=probes[video.id].num_frames,
            fps=probes[video.id].fps,
        )
        for video in scan.videos
    )
    return VideoIndex(
        classes=scan.classes,
        root=scan.directory.absolute(),
        videos=tuple(sorted(videos, key=lambda video: (video.split, video.id))),
    )


def _split_folders(directory: Path) -> dict[str, Path]:
    """The folders that are splits; empty where the sub-folders are classes."""
    folders = _subfolders(directory)
    named = {folder.name: folder for folder in folders if folder.name in SPLITS}
    if len(named) == len(folders):
        if named and "train" not in named:
            raise DataError(
                f"{directory} holds {names(named)} and no `train`; add {directory}/train"
            )
        return named
    # A class may well be called `train`; only with folders inside can it be meant as a split.
    if ambiguous := [name for name, folder in named.items() if _subfolders(folder)]:
        others = [folder.name for folder in folders if folder.name not in named]
        raise DataError(
            f"{directory} holds splits ({names(ambiguous)}) and class folders ({names(others)}) "
            "side by side, so the class of a video is not clear; move the class folders into the "
            "splits, or import one of the two alone"
        )
    return {}


def _class_folders(parent: Path) -> list[Path]:
    loose = [child.name for child in _visible(parent) if child.is_file() and is_video(child.name)]
    if loose:
        raise DataError(
            f"{len(loose)} videos lie in {parent} itself, outside any class folder, so they have "
            f"no class: {names(loose)}. Move them into the folder of their class"
        )
    folders = _subfolders(parent)
    if not folders:
        raise DataError(
            f"{parent} holds no class folders; a folder per class is needed, with the videos of "
            "that class inside"
        )
    return folders


def _refuse_empty(directory: Path, videos: Mapping[tuple[str, str], Sequence[Path]]) -> None:
    empty = ["/".join(filter(None, key)) for key, files in videos.items() if not files]
    if empty:
        raise DataError(
            f"{len(empty)} class folders in {directory} hold no videos: {names(empty)}. Put "
            f"videos there or remove the folders; known suffixes are {CONTAINERS}"
        )


def _refuse_untrained(by_class: Mapping[tuple[str, str], Sequence[str]]) -> None:
    trained = {class_name for split, class_name in by_class if split == "train"}
    if untrained := sorted({class_name for _, class_name in by_class} - trained):
        raise DataError(
            f"{len(untrained)} classes have no folder in `train`, so nothing could learn them: "
            f"{names(untrained)}. Add training videos or remove these classes from the other "
            "splits"
        )


def _divide(
    by_class: Mapping[tuple[str, str], Sequence[str]], val_fraction: float
) -> dict[tuple[str, str], list[str]]:
    """Split each class by the hashes of its ids, at least one video on either side."""
    lonely = [class_name for (_, class_name), ids in by_class.items() if len(ids) == 1]
    if val_fraction and lonely:
        raise DataError(
            f"class {names(lonely)} has one video; a split into `train` and `val` needs at least "
            "two of each class. Add videos, or put DIR/train and DIR/val, or give --val 0"
        )
    divided: dict[tuple[str, str], list[str]] = {}
    for (_, class_name), ids in by_class.items():
        drawn = sorted(ids, key=lambda id_: sha256(id_.encode("utf-8", "surrogateescape")).digest())
        num_val = min(max(round(len(ids) * val_fraction), 1), len(ids) - 1) if val_fraction else 0
        divided["train", class_name] = sorted(drawn[num_val:])
        if num_val:
            divided["val", class_name] = sorted(drawn[:num_val])
    return divided


def _refuse_copies(scan: FolderScan) -> None:
    """Equal bytes in two splits: the test would measure what was trained on.

    Names say nothing here: many folders number the videos of each split from 1.
    """
    split_of = {scan.directory / video.id: video.split for video in scan.videos}
    for one, other in copies_across(split_of):
        one_id, other_id = (path.relative_to(scan.directory).as_posix() for path in (one, other))
        raise DataError(
            f"the same video is in two splits (`{split_of[one]}` and `{split_of[other]}`): "
            f"{one_id} and {other_id} have the same bytes. The measured accuracy would be "
            "that of videos seen in training; remove one of the two"
        )


def _visible(folder: Path) -> Iterator[Path]:
    return (child for child in sorted(folder.iterdir()) if not child.name.startswith("."))


def _subfolders(folder: Path) -> list[Path]:
    return [child for child in _visible(folder) if child.is_dir()]


def _files(folder: Path) -> list[Path]:
    """All visible files below a folder; links to folders inside it are not followed."""
    files: list[Path] = []
    for parent, folders, files_here in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in files_here if not name.startswith(".")]
    return files
