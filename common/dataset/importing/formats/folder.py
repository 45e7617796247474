"""A folder of class folders, where the folders themselves are the annotations.

    DIR/run/a.mp4  DIR/run/deeper/b.mp4  DIR/jump/c.mp4     split by us
    DIR/train/run/a.mp4  DIR/val/run/b.mp4                  already split (train, val, test)

Nothing is left out silently: a file whose suffix is not one of a video is listed.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from reskd.common.dataset.importing.annotations import Annotations, Ignored, Row
from reskd.common.dataset.importing.report import names
from reskd.common.dataset.importing.video_tree import CONTAINERS, is_video
from reskd.common.errors import DataError

SPLITS = ("train", "val", "test")


def read_folder(directory: Path, *, val_fraction: float) -> Annotations:
    """Find the videos of a folder, their classes and splits, without opening any.

    Args:
        directory: Folder of class folders, or of `train`, `val` and `test` holding class folders.
        val_fraction: Share of each class that becomes split `val`, in [0, 1), where the folder is
            not split. Which ones depends on their ids alone.

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
    found = {
        (split, folder.name): _files(folder)
        for split, parent in parents.items()
        for folder in _class_folders(parent)
    }
    by_class = {
        key: sorted(file.relative_to(directory).as_posix() for file in files if is_video(file.name))
        for key, files in found.items()
    }
    _refuse_empty(directory, by_class)
    if split_folders:
        _refuse_untrained(by_class)
    else:
        by_class = _divide(by_class, val_fraction)
    skipped = [file for files in found.values() for file in files if not is_video(file.name)]
    return Annotations(
        rows=tuple(
            Row(where="", id=id_, files=(id_,), labels=(class_name,), split=split)
            for (split, class_name), ids in sorted(by_class.items())
            for id_ in ids
        ),
        numbered=False,
        classes=tuple(sorted({class_name for _, class_name in by_class})),
        ignored=tuple(
            Ignored(where=str(file.absolute()), reason="no video")
            for file in sorted(skipped, key=Path.as_posix)
        ),
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


def _refuse_empty(directory: Path, by_class: Mapping[tuple[str, str], Sequence[str]]) -> None:
    empty = ["/".join(filter(None, key)) for key, ids in by_class.items() if not ids]
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
