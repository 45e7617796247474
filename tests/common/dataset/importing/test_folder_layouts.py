"""Split folders by any name, links inside classes, and folders of images as videos."""

from dataclasses import dataclass

import pytest

from reskd.common.dataset.importing.annotations import Annotations
from reskd.common.dataset.importing.formats.folder import read_folder
from reskd.common.errors import DataError
from tests.common.dataset.importing.conftest import Tree


def splits(found: Annotations) -> dict[str, list[str]]:
    by_split: dict[str, list[str]] = {}
    for row in found.rows:
        by_split.setdefault(row.split, []).append(row.id)
    return by_split


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCase:
    """Folders in the order of the splits that they mean."""

    id: str
    folders: tuple[str, ...]
    splits: tuple[str, ...]


SPLIT_CASES = (
    SplitCase(id="capitals", folders=("Train", "Test"), splits=("train", "test")),
    SplitCase(id="long", folders=("training", "validation"), splits=("train", "val")),
    SplitCase(id="set", folders=("training_set", "test_set"), splits=("train", "test")),
    SplitCase(id="valid", folders=("train", "valid"), splits=("train", "val")),
    SplitCase(id="dev", folders=("TRAIN", "dev", "test"), splits=("train", "val", "test")),
    SplitCase(id="eval", folders=("TrainSet", "EvalSet"), splits=("train", "val")),
    SplitCase(id="sizes", folders=("train_256", "val_256"), splits=("train", "val")),
    SplitCase(id="lone test", folders=("test",), splits=("test",)),
    SplitCase(id="no train", folders=("Validation", "Testing"), splits=("val", "test")),
)


@pytest.mark.parametrize("case", SPLIT_CASES, ids=lambda case: case.id)
def test_split_folders_are_known_by_any_of_their_names(tree: Tree, case: SplitCase) -> None:
    names = [f"{folder}/{label}/1.mp4" for folder in case.folders for label in "ab"]
    found = read_folder(tree(*names), val_fraction=0.5)
    assert found.classes == ("a", "b")
    assert splits(found) == {
        split: [f"{folder}/a/1.mp4", f"{folder}/b/1.mp4"]
        for folder, split in zip(case.folders, case.splits, strict=True)
    }


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["train/a/1.mp4", "val/a/2.mp4", "dev/a/3.mp4"], "dev, val, and both mean split `val`"),
        (["a/train/1.mp4", "a/test/2.mp4"], r"a holds splits \(test, train\).*import .*a"),
        (["x/a/1.mp4", "x/b/2.mp4"], r"one folder, x, which holds folders only \(a, b\)"),
    ],
    ids=["two for one split", "splits below classes", "classes a level deeper"],
)
def test_levels_that_do_not_fit_are_refused(tree: Tree, names: list[str], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_folder(tree(*names), val_fraction=0.5)


def test_linked_folder_in_a_class_is_followed_and_each_file_counts_once(tree: Tree) -> None:
    directory = tree("left/1.mp4", "left/own/2.mp4", "right/3.mp4")
    store = directory.parent / "store" / "deep"
    store.mkdir(parents=True)
    (store / "4.mp4").write_text("four")
    (directory / "left" / "more").symlink_to(store.parent)
    (directory / "left" / "again").symlink_to(store)
    (directory / "left" / "copy").symlink_to(directory / "left" / "own")
    (directory / "left" / "0.mp4").symlink_to("1.mp4")
    found = read_folder(directory, val_fraction=0)
    assert [row.id for row in found.rows] == [
        "left/1.mp4",
        "left/again/4.mp4",
        "left/own/2.mp4",
        "right/3.mp4",
    ]


@pytest.mark.parametrize("target", ["left", ".", "..", "left/own"])
def test_link_that_leads_back_ends(tree: Tree, target: str) -> None:
    directory = tree("left/own/1.mp4", "right/2.mp4")
    (directory / "left" / "own" / "back").symlink_to(directory / target)
    found = read_folder(directory, val_fraction=0)
    assert [row.id for row in found.rows] == ["left/own/1.mp4", "right/2.mp4"]


def test_file_that_a_link_puts_into_two_classes_is_refused(tree: Tree) -> None:
    directory = tree("left/1.mp4", "right/2.mp4")
    (directory / "left" / "all").symlink_to(directory / "right")
    with pytest.raises(DataError, match=r"two classes, by a link: .*left/all/2.mp4.*right/2.mp4"):
        read_folder(directory, val_fraction=0)


def test_folders_of_images_are_videos_where_there_are_no_video_files(tree: Tree) -> None:
    directory = tree("a/v1/img_1.jpg", "a/v1/img_2.jpg", "b/v2/img_1.jpg", "b/notes.txt")
    found = read_folder(directory, val_fraction=0)
    assert [row.id for row in found.rows] == ["a/v1", "b/v2"]
    assert [row.where for row in found.ignored] == [str(directory / "b" / "notes.txt")]


def test_folder_of_images_beside_videos_is_listed_as_skipped(tree: Tree) -> None:
    directory = tree("a/1.mp4", "a/previews/1.jpg", "b/2.mp4")
    found = read_folder(directory, val_fraction=0)
    assert [row.id for row in found.rows] == ["a/1.mp4", "b/2.mp4"]
    assert [row.where for row in found.ignored] == [str(directory / "a" / "previews" / "1.jpg")]
