"""A folder of class folders, where the folders themselves are the annotations.

    DIR/run/a.mp4  DIR/run/deeper/b.mp4  DIR/jump/c.mp4     split by us
    DIR/train/run/a.mp4  DIR/val/run/b.mp4                  already split, by any names of splits
    DIR/run/a/img_00001.jpg  DIR/jump/b/img_00001.jpg       a folder of images per video

Nothing is left out silently: a file whose suffix is not one of a video is listed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from reskd.common.dataset.importing.annotations import Annotations, Ignored, Row
from reskd.common.dataset.importing.linked_files import Folder, folders_below
from reskd.common.dataset.importing.report import names
from reskd.common.dataset.importing.sources import SPLIT_WORDS, split_called
from reskd.common.dataset.importing.video_tree import CONTAINERS, is_image, is_video
from reskd.common.errors import DataError

ClassKey = tuple[str, str]
"""Split, empty where the folder is not split, and class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ClassFiles:
    """What the folder of one class holds; paths as they were reached, and without any link."""

    videos: dict[str, str]
    image_folders: dict[str, str]
    """Folders that hold images, and neither videos nor folders."""
    images: tuple[str, ...]
    """Those in the image folders."""
    others: tuple[str, ...]


def read_folder(directory: Path, *, val_fraction: float) -> Annotations:
    """Find the videos of a folder, their classes and splits, without opening any.

    Args:
        directory: Folder of class folders, or of splits holding class folders.
        val_fraction: Share of each class that becomes split `val`, in [0, 1), where the folder is
            not split. Which ones depends on their ids alone (but see former_splits.py).

    Returns:
        Rows whose ids are paths relative to `directory`, in the order of split, class and id.

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
    class_folders = {
        (split, folder.name): folder
        for split, parent in parents.items()
        for folder in _class_folders(parent)
    }
    if not split_folders:
        _refuse_other_levels(directory, [*class_folders.values()])
    found = {key: _class_files(folder) for key, folder in class_folders.items()}
    # Images beside videos are previews of them, not videos.
    are_images = not any(files.videos for files in found.values())
    videos = {
        key: files.image_folders if are_images else files.videos for key, files in found.items()
    }
    skipped = [
        path
        for files in found.values()
        for path in (*files.others, *(() if are_images else files.images))
    ]
    _refuse_empty(directory, videos)
    _refuse_shared(directory, videos)
    above = f"{directory}/"
    by_class = {
        key: sorted(path.removeprefix(above) for path in paths) for key, paths in videos.items()
    }
    if "train" in split_folders:
        _refuse_untrained(by_class)
    if not split_folders:
        by_class = _divide(by_class, val_fraction)
    return Annotations(
        rows=tuple(
            Row(where="", id=id_, files=(id_,), labels=(class_name,), split=split)
            for (split, class_name), ids in sorted(by_class.items())
            for id_ in ids
        ),
        numbered=False,
        drawn_splits=not split_folders,
        classes=tuple(sorted({class_name for _, class_name in by_class})),
        ignored=tuple(
            Ignored(where=str(Path(path).absolute()), reason="no video") for path in sorted(skipped)
        ),
    )


def _split_folders(directory: Path) -> dict[str, Path]:
    """The folders that are splits; empty where the sub-folders are classes."""
    folders = _subfolders(directory)
    named = [(split, folder) for folder in folders if (split := split_called(folder.name))]
    if len(named) == len(folders):
        by_split: dict[str, Path] = {}
        for split, folder in named:
            if (other := by_split.setdefault(split, folder)) != folder:
                raise DataError(
                    f"{directory} holds {names([other.name, folder.name])}, and both mean split "
                    f"`{split}`; name each {names(SPLIT_WORDS)}, or import them apart"
                )
        return by_split
    # A class may well be called `train`; only with folders inside can it be meant as a split.
    if ambiguous := [folder.name for _, folder in named if _subfolders(folder)]:
        splits = {folder for _, folder in named}
        others = [folder.name for folder in folders if folder not in splits]
        raise DataError(
            f"{directory} holds splits ({names(ambiguous)}) and class folders ({names(others)}) "
            "side by side, so the class of a video is not clear; move the class folders into the "
            "splits, or import one of the two alone"
        )
    return {}


def _refuse_other_levels(directory: Path, class_folders: Sequence[Path]) -> None:
    """Refuse folders where the classes, or the splits, lie a level deeper than is read."""
    for folder in class_folders:
        if splits := [below.name for below in _subfolders(folder) if split_called(below.name)]:
            raise DataError(
                f"{folder} holds splits ({names(splits)}). If {folder.name} is a class, put splits "
                f"above classes, {directory / splits[0] / folder.name}; if it is the data set, "
                f"import {folder}"
            )
    if len(class_folders) == 1 and len(below := _subfolders(class_folders[0])) > 1:
        (folder,) = class_folders
        if not any(is_video(child.name) or is_image(child.name) for child in _visible(folder)):
            raise DataError(
                f"{directory} holds one folder, {folder.name}, which holds folders only "
                f"({names(child.name for child in below)}). If those are the classes, import "
                f"{folder}; one class alone teaches nothing"
            )


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


def _refuse_empty(directory: Path, videos: Mapping[ClassKey, Mapping[str, str]]) -> None:
    empty = ["/".join(filter(None, key)) for key, paths in videos.items() if not paths]
    if empty:
        raise DataError(
            f"{len(empty)} class folders in {directory} hold no videos: {names(empty)}. Put "
            f"videos there or remove the folders; known suffixes are {CONTAINERS}. A folder of "
            "images is a video where DIR holds no video files"
        )


def _refuse_shared(directory: Path, videos: Mapping[ClassKey, Mapping[str, str]]) -> None:
    """Refuse a file that links put into two classes."""
    owners: dict[str, tuple[str, str]] = {}
    for (_, class_name), paths in videos.items():
        for path, real in paths.items():
            other, first = owners.setdefault(real, (class_name, path))
            if other != class_name:
                raise DataError(
                    f"one file is in two classes, by a link: {first} and {path} in {directory}. "
                    "Which of them is right? Remove the other"
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


def _visible(folder: Path) -> Iterator[Path]:
    return (child for child in sorted(folder.iterdir()) if not child.name.startswith("."))


def _subfolders(folder: Path) -> list[Path]:
    return [child for child in _visible(folder) if child.is_dir()]


def _class_files(class_folder: Path) -> _ClassFiles:
    videos: dict[str, str] = {}
    image_folders: dict[str, str] = {}
    others: list[str] = []
    images: list[str] = []
    for folder in folders_below(class_folder):
        are_frames = folder.path != str(class_folder) and _is_image_folder(folder)
        if are_frames:
            image_folders[folder.path] = folder.real
        for name, real in folder.files.items():
            path = f"{folder.path}/{name}"
            if is_video(name):
                videos[path] = real
            elif are_frames and is_image(name):
                images.append(path)
            else:
                others.append(path)
    return _ClassFiles(
        videos=videos, image_folders=image_folders, others=tuple(others), images=tuple(images)
    )


def _is_image_folder(folder: Folder) -> bool:
    nested = folder.below or folder.linked
    return not nested and any(map(is_image, folder.files)) and not any(map(is_video, folder.files))
