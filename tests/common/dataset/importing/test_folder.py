"""Folders become indexes, and what is unclear, broken or twice there is refused with a remedy."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.importing.annotations import Annotations
from reskd.common.dataset.importing.formats.folder import read_folder
from reskd.common.dataset.importing.pipeline import import_folder
from reskd.common.dataset.index import read_index
from reskd.common.errors import DataError
from tests.common.dataset.importing.conftest import Tree
from tests.video_files import numbered_frames, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered_frames(8))


@pytest.fixture
def real(tmp_path: Path, clip: Path) -> Path:
    """Two classes of three readable videos."""
    directory = tmp_path / "real"
    for number, name in enumerate(
        ["a b/1", "a b/2", "a b/in/3", "läuft/1", "läuft/x y", "läuft/日"]
    ):
        path = directory / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Bytes after the end do not matter to MP4; without them these were copies.
        path.write_bytes(clip.read_bytes() + bytes([0, 0, 0, 9]) + b"free" + bytes([number]))
    return directory


def ids(found: Annotations, split: str) -> list[str]:
    return [row.id for row in found.rows if row.split == split]


def test_read_folder_of_class_folders_takes_names_as_classes(tree: Tree) -> None:
    found = read_folder(tree("run/1.mp4", "run/deep/er/2.MKV", "läuft 日/ä b.webm"), val_fraction=0)
    assert found.classes == ("läuft 日", "run")
    assert ids(found, "train") == ["läuft 日/ä b.webm", "run/1.mp4", "run/deep/er/2.MKV"]


def test_read_folder_keeps_names_as_they_are_on_disk(tree: Tree) -> None:
    name = unicodedata.normalize("NFD", "lä/ü.mp4")
    assert ids(read_folder(tree(name), val_fraction=0), "train") == [name]


def test_read_folder_with_other_files_lists_them_and_ignores_hidden_ones(tree: Tree) -> None:
    directory = tree("a/1.mp4", "a/1.srt", "a/in/notes.txt", "a/.x.mp4", "a/.y/2.mp4", ".git/a.mp4")
    found = read_folder(directory, val_fraction=0)
    assert len(found.rows) == 1
    assert [row.where for row in found.ignored] == [
        str(directory / name) for name in ("a/1.srt", "a/in/notes.txt")
    ]


def test_read_folder_with_split_folders_keeps_the_splits(tree: Tree) -> None:
    directory = tree("train/b/1.mp4", "train/a/2.mp4", "val/a/3.mp4", "test/b/4.mp4")
    found = read_folder(directory, val_fraction=0.5)
    assert found.classes == ("a", "b")
    assert [ids(found, split) for split in ("train", "val", "test")] == [
        ["train/a/2.mp4", "train/b/1.mp4"],
        ["val/a/3.mp4"],
        ["test/b/4.mp4"],
    ]


def test_read_folder_with_class_called_train_takes_it_as_class(tree: Tree) -> None:
    found = read_folder(tree("train/1.mp4", "bus/2.mp4"), val_fraction=0)
    assert found.classes == ("bus", "train")


@pytest.mark.parametrize(
    ("num_videos", "val_fraction", "num_val"),
    [(10, 0.2, 2), (10, 0.01, 1), (2, 0.2, 1), (2, 0.9, 1), (3, 0.99, 2), (7, 0.0, 0)],
)
def test_read_folder_divides_each_class_and_keeps_both_sides(
    tree: Tree, num_videos: int, val_fraction: float, num_val: int
) -> None:
    names = [f"{name}/{number}.mp4" for name in "ab" for number in range(num_videos)]
    found = read_folder(tree(*names), val_fraction=val_fraction)
    for name in "ab":
        assert sum(id_.startswith(name) for id_ in ids(found, "val")) == num_val
        assert sum(id_.startswith(name) for id_ in ids(found, "train")) == num_videos - num_val


def test_read_folder_again_with_more_videos_moves_few(tree: Tree) -> None:
    names = [f"a/{number}.mp4" for number in range(40)]
    before = set(ids(read_folder(tree(*names), val_fraction=0.25), "val"))
    after = set(ids(read_folder(tree("a/new.mp4"), val_fraction=0.25), "val"))
    assert len(before) == 10
    assert len(before - after) <= 1


def test_read_folder_of_copied_folder_divides_alike(tree: Tree, tmp_path: Path) -> None:
    directory = tree(*(f"a/{number}.mp4" for number in range(9)))
    copy = shutil.copytree(directory, tmp_path / "elsewhere")
    assert read_folder(copy, val_fraction=0.3) == read_folder(directory, val_fraction=0.3)


@pytest.mark.parametrize("val_fraction", [-0.1, 1.0, float("nan")])
def test_read_folder_with_share_out_of_range_says_so(tree: Tree, val_fraction: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        read_folder(tree("a/1.mp4"), val_fraction=val_fraction)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "holds no class folders; a folder per class"),
        (["1.mp4", "a/2.mp4"], r"1 videos lie in .* outside any class folder.*: 1\.mp4"),
        (["a/1.mp4", "a/2.mp4", "b/notes.txt"], "1 class folders in .* hold no videos: b"),
        (["a/1.mp4", "b/1.mp4", "b/2.mp4"], "class a has one video; .*needs at least two"),
        (["train/a/1.mp4", "run/1.mp4"], r"splits \(train\) and class folders \(run\) side by"),
        (["train/a/1.mp4", "val/b/2.mp4"], "no folder in `train`.*: b"),
        (["train/a/1.mp4", "val/2.mp4"], "outside any class folder"),
        (["train/1.mp4", "val/2.mp4"], "outside any class folder"),
    ],
)
def test_read_folder_of_unclear_layout_says_what_to_do(
    tree: Tree, names: list[str], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        read_folder(tree(*names), val_fraction=0.2)


def test_read_folder_of_missing_folder_or_file_says_which(tree: Tree) -> None:
    directory = tree("a/1.mp4")
    with pytest.raises(DataError, match="absent does not exist"):
        read_folder(directory / "absent", val_fraction=0)
    with pytest.raises(DataError, match=r"1\.mp4 is a file"):
        read_folder(directory / "a" / "1.mp4", val_fraction=0)


def test_import_folder_with_equal_bytes_in_two_splits_names_both(
    tree: Tree, tmp_path: Path
) -> None:
    directory = tree("train/a/1.mp4", "val/a/2.mp4")
    shutil.copy(directory / "train" / "a" / "1.mp4", directory / "val" / "a" / "copy.mp4")
    with pytest.raises(DataError, match=r"train/a/1\.mp4 and val/a/copy\.mp4 have the same bytes"):
        import_folder(directory, tmp_path / "x.jsonl", val_fraction=0)


def test_import_folder_with_equal_names_and_sizes_in_two_splits_is_fine(
    tree: Tree, tmp_path: Path
) -> None:
    directory = tree("train/a/1.mp4", "val/a/1.mp4")
    (directory / "train" / "a" / "1.mp4").write_text("12345")
    (directory / "val" / "a" / "1.mp4").write_text("12346")
    index, _ = import_folder(directory, tmp_path / "x.jsonl", val_fraction=0, allow_unreadable=True)
    assert len(index.videos) == 2


def test_import_folder_records_lengths_and_rates(real: Path, tmp_path: Path) -> None:
    index, _ = import_folder(real, tmp_path / "x.jsonl", val_fraction=0.3, jobs=2)
    assert read_index(tmp_path / "x.jsonl") == index
    assert {(video.num_frames, video.fps) for video in index.videos} == {(8, 12.0)}
    assert [video.labels for video in index.split("val")] == [(0,), (1,)]
    assert all(index.path_of(video).is_file() for video in index.videos)


def test_import_folder_with_unreadable_videos_lists_ten_and_the_count(
    real: Path, tmp_path: Path
) -> None:
    for number in range(12):
        (real / "a b" / f"bad {number:02}.mp4").write_text(f"no video {number}")
    with pytest.raises(DataError) as caught:
        import_folder(real, tmp_path / "x.jsonl", val_fraction=0.2)
    message = str(caught.value)
    assert message.startswith(f"12 of 18 videos in {real} cannot be read")
    assert message.count("Invalid data") == 10
    assert "and 2 more" in message
    assert "--allow-unreadable" in message


def test_import_folder_of_cut_video_is_refused(real: Path, clip: Path, tmp_path: Path) -> None:
    content = clip.read_bytes()
    (real / "a b" / "cut.mp4").write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(DataError, match=r"a b/cut\.mp4: .*cut off"):
        import_folder(real, tmp_path / "x.jsonl", val_fraction=0.2)


def test_import_folder_allowing_unreadable_keeps_them_with_no_frames(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (real / "a b" / "bad.mp4").write_text("no video")
    index, _ = import_folder(real, tmp_path / "x.jsonl", val_fraction=0.2, allow_unreadable=True)
    assert [video.id for video in index.videos if video.num_frames == 0] == ["a b/bad.mp4"]
    assert "a b/bad.mp4: Invalid data" in capsys.readouterr().err


def command(*arguments: str | Path) -> int:
    return main(["dataset", *map(str, arguments)])


def test_dataset_import_then_show_prints_counts(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "videos.jsonl"
    assert command("import", "folder", real, "--out", out, "--val", "0.34") == 0
    assert read_index(out).classes == ("a b", "läuft")
    capsys.readouterr()
    assert command("show", out) == 0
    assert capsys.readouterr().out == (
        "class       train  val\n"  #
        "a b             2    1\n"
        "läuft           2    1\n"
        "all videos      4    2\n"
    )


def test_dataset_import_with_json_prints_one_object_with_absolute_paths(
    real: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (real / "a b" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert command("import", "folder", "real", "--out", "videos.jsonl", "--json") == 0
    captured = capsys.readouterr()
    assert "opening: 6/6 videos" in captured.err
    assert json.loads(captured.out) == {
        "index": str(tmp_path / "videos.jsonl"),
        "root": str(real),
        "classes": ["a b", "läuft"],
        "splits": {
            "train": {"videos": 4, "frames": 32, "classes": {"a b": 2, "läuft": 2}},
            "val": {"videos": 2, "frames": 16, "classes": {"a b": 1, "läuft": 1}},
        },
        "unreadable": [],
        "skipped": [str(real / "a b" / "notes.txt")],
    }


def test_dataset_import_of_broken_video_exits_3_and_writes_nothing(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (real / "a b" / "bad.mp4").write_text("no video")
    out = tmp_path / "videos.jsonl"
    assert command("import", "folder", real, "--out", out) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a b/bad.mp4" in captured.err
    assert not out.exists()
    assert command("import", "folder", real, "--out", out, "--allow-unreadable") == 0
    assert "1 of them could not be read" in capsys.readouterr().out


def test_dataset_import_with_share_of_one_is_a_usage_error(real: Path, tmp_path: Path) -> None:
    assert command("import", "folder", real, "--out", tmp_path / "x", "--val", "1") == 2


def test_dataset_show_of_missing_index_exits_3(tmp_path: Path) -> None:
    assert command("show", tmp_path / "videos.jsonl") == 3
