"""Where annotated videos lie, and which split a list is of."""

import os
import unicodedata
from pathlib import Path

import pytest

from reskd.common.dataset.importing.annotations import Row
from reskd.common.dataset.importing.sources import Source, parse_sources, parse_video_folders
from reskd.common.dataset.importing.video_tree import VideoTree
from reskd.common.errors import DataError


def row(*files: str, anywhere: bool = False) -> Row:
    return Row(where="", id="", files=files, anywhere=anywhere, labels=("0",), split="train")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("on_disk", "listed", "found"),
    [
        ("a b/c.mp4", "a b/c.mp4", "a b/c.mp4"),
        ("a/c.mp4", "./a//c.mp4", "a/c.mp4"),
        ("a/c.webm", "a/c.mp4", "a/c.webm"),
        ("a/c.MP4", "a/c.mp4", "a/c.MP4"),
        ("a/c.mkv", "a/c", "a/c.mkv"),
        ("a/c.d.mkv", "a/c.d", "a/c.d.mkv"),
        ("a/c.mp4", "a\\c.avi", "a/c.mp4"),
        ("c/img_00001.png", "c.mp4", "c"),
        (unicodedata.normalize("NFD", "ü.mp4"), "ü.mp4", unicodedata.normalize("NFD", "ü.mp4")),
    ],
)
def test_listed_path_is_found_whatever_its_suffix(
    tmp_path: Path, on_disk: str, listed: str, found: str
) -> None:
    assert VideoTree(touch(tmp_path, on_disk)).find(row(listed)) == (found, None)


@pytest.mark.parametrize(
    ("on_disk", "listed", "problem"),
    [
        (["a/c.mp4"], "a/d.mp4", "no such file"),
        (["a/c.mp4"], "b/c.mp4", "no such file"),
        # Ids of YouTube differ by the case of their letters.
        (["a/C.mp4"], "a/c.mp4", "no such file"),
        (["a/c.txt"], "a/c.mp4", "no such file"),
        (["a/c.webm", "a/c.mkv"], "a/c.mp4", "2 files could be it: a/c.mkv, a/c.webm"),
        (["a/c.mp4"], "../c.mp4", "leads out of"),
        (["a/c.mp4"], "/elsewhere/c.mp4", "leads out of"),
    ],
)
def test_listed_path_that_is_not_there_is_missing(
    tmp_path: Path, on_disk: list[str], listed: str, problem: str
) -> None:
    found = VideoTree(touch(tmp_path, *on_disk)).find(row(listed))
    assert problem in (found.problem or "")


def test_exact_name_wins_over_others_of_its_stem(tmp_path: Path) -> None:
    tree = VideoTree(touch(tmp_path, "c.mp4", "c.webm", "c/img_1.png"))
    assert tree.find(row("c.webm")) == ("c.webm", None)
    assert tree.find(row("c")) == ("c", None)


def test_absolute_path_below_the_folder_is_found(tmp_path: Path) -> None:
    tree = VideoTree(touch(tmp_path, "a/c.mp4"))
    assert tree.find(row(str(tmp_path / "a" / "c.mp4"))) == ("a/c.mp4", None)


def test_id_is_found_in_any_folder_and_frames_are_not_searched(tmp_path: Path) -> None:
    touch(tmp_path, "train/air drumming/-x_1_2.mp4", "v_a/img_00001.jpg", ".trash/y.mp4", "w/y.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    tree = VideoTree(tmp_path)
    assert tree.find(row("-x_1_2", "-x", anywhere=True)) == ("train/air drumming/-x_1_2.mp4", None)
    assert tree.find(row("v_a", "a", anywhere=True)) == ("v_a", None)
    assert tree.find(row("img_00001", anywhere=True)).problem is not None
    assert tree.find(row("y", anywhere=True)).problem is not None


def test_id_in_two_folders_is_not_guessed(tmp_path: Path) -> None:
    place = VideoTree(touch(tmp_path, "train/x.mp4", "val/x.mp4")).find(row("x", anywhere=True))
    assert place.problem == "2 files could be it: train/x.mp4, val/x.mp4"


def test_folder_is_listed_once_for_all_its_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"a/{number}.webm" for number in range(20)))
    scanned: list[str] = []
    scandir = os.scandir

    def counting(path: Path) -> "os._ScandirIterator[str]":
        scanned.append(path.name)
        return scandir(os.fspath(path))

    monkeypatch.setattr(os, "scandir", counting)
    tree = VideoTree(tmp_path)
    assert all(tree.find(row(f"a/{number}.mp4")).problem is None for number in range(20))
    assert scanned == ["a"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("k400_video_train.txt", "train"),
        ("trainlist01.txt", "train"),
        ("something-something-v2-validation.json", "val"),
        ("sthv2_val_list_videos.txt", "val"),
        ("testlist03.txt", "test"),
        ("Dev_Set.csv", "val"),
        ("evalList.txt", "val"),
    ],
)
def test_split_is_read_from_a_files_name(name: str, split: str) -> None:
    assert Source(path=Path("train/val") / name, split=None).split_or_named() == split


@pytest.mark.parametrize("name", ["list.txt", "valentine.txt", "train_test.txt"])
def test_file_whose_name_has_no_split_or_two_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(DataError, match=f"which split is {name}.*write train={name}"):
        Source(path=Path(name), split=None).split_or_named()


def test_split_before_a_file_wins(tmp_path: Path) -> None:
    (tmp_path / "a=b").touch()
    one, other, third = parse_sources(["validate=x/train.txt", str(tmp_path / "a=b"), "dev=y"])
    assert (one.split, one.path) == ("val", Path("x/train.txt"))
    assert (other.split, other.path) == (None, tmp_path / "a=b")
    assert third.split_or_named() == "val"


def test_file_given_for_two_splits_is_refused() -> None:
    with pytest.raises(DataError, match=r"val\.txt is given twice"):
        parse_sources(["val=val.txt", "test=val.txt"])


def test_folders_of_splits_have_a_common_root(tmp_path: Path) -> None:
    for name in ("a/train", "a/val"):
        (tmp_path / name).mkdir(parents=True)
    folders = parse_video_folders([f"train={tmp_path}/a/train", f"val={tmp_path}/a/val"])
    assert folders.root == tmp_path / "a"
    assert folders.of("val") == tmp_path / "a" / "val"
    with pytest.raises(DataError, match=r"split `test`, only for train, val; add --videos test="):
        folders.of("test")


def test_absent_or_repeated_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        parse_video_folders([str(tmp_path / "absent")])
    with pytest.raises(DataError, match="given twice for all splits"):
        parse_video_folders([str(tmp_path), str(tmp_path)])
