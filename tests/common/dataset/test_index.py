"""The video index: what is written is read back, and nothing wrong passes as an index."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reskd.common.dataset.index import VideoEntry, VideoIndex, read_index, write_index
from reskd.common.errors import DataError


def entry(id_: str, split: str = "train", **changes: Any) -> VideoEntry:
    made = VideoEntry(id=id_, path=id_, labels=(0,), split=split, num_frames=9, fps=12.5)
    return replace(made, **changes)


def example(root: Path) -> VideoIndex:
    return VideoIndex(
        classes=("jump", "läuft schnell"),
        root=root,
        videos=(
            entry("jump/a b.mp4"),
            entry("läuft schnell/„c“, 日本.mp4", labels=(0, 1)),
            entry("jump/line\u2028break.mp4", split="val", num_frames=0, fps=0.0),
        ),
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "lists" / "videos.jsonl"
    write_index(path, example(tmp_path / "the videos"))
    return path


def edit(file: Path, number: int, **changes: Any) -> None:
    """Change fields of one line; None removes a field."""
    lines = file.read_text(encoding="utf-8").split("\n")
    row = json.loads(lines[number - 1]) | changes
    lines[number - 1] = json.dumps({key: value for key, value in row.items() if value is not None})
    file.write_text("\n".join(lines), encoding="utf-8")


def test_read_index_after_write_gives_the_same_index(written: Path, tmp_path: Path) -> None:
    assert read_index(written) == example(tmp_path / "the videos")


def test_write_index_twice_gives_equal_bytes_sorted_by_id(tmp_path: Path) -> None:
    index = example(tmp_path)
    write_index(tmp_path / "one", index)
    write_index(tmp_path / "two", replace(index, videos=index.videos[::-1]))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_read_index_after_moving_folder_finds_the_videos(tmp_path: Path) -> None:
    write_index(tmp_path / "old" / "videos.jsonl", example(tmp_path / "old" / "videos"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    index = read_index(tmp_path / "new" / "videos.jsonl")
    assert index.path_of(index.videos[0]) == tmp_path / "new" / "videos" / "jump" / "a b.mp4"


def test_read_index_with_name_that_is_not_utf8_keeps_it(tmp_path: Path) -> None:
    name = b"jump/\xff.mp4".decode("utf-8", "surrogateescape")
    index = VideoIndex(classes=("jump",), root=tmp_path, videos=(entry(name),))
    write_index(tmp_path / "videos.jsonl", index)
    assert read_index(tmp_path / "videos.jsonl") == index


def test_split_when_unknown_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'; it has: train, val"):
        example(tmp_path).split("test")


def test_split_gives_its_videos_in_order(tmp_path: Path) -> None:
    assert [video.id[0] for video in example(tmp_path).split("train")] == ["j", "l"]


def test_digest_of_moved_videos_is_unchanged(tmp_path: Path) -> None:
    here = example(tmp_path)
    elsewhere = replace(
        here,
        root=tmp_path / "mnt",
        videos=tuple(replace(video, path=f"x/{video.path}", fps=1.0) for video in here.videos),
    )
    assert here.digest("train") == elsewhere.digest("train")


@pytest.mark.parametrize("change", [{"id": "x"}, {"labels": (1,)}, {"num_frames": 10}])
def test_digest_with_another_row_differs_in_its_split_only(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    index = example(tmp_path)
    changed = replace(index, videos=(replace(index.videos[0], **change), *index.videos[1:]))
    assert changed.digest("train") != index.digest("train")
    assert changed.digest("val") == index.digest("val")


def test_digest_with_other_class_names_or_order_differs(tmp_path: Path) -> None:
    index = example(tmp_path)
    renamed = replace(index, classes=("jump", "run"))
    swapped = replace(index, videos=index.videos[::-1])
    assert len({each.digest("train") for each in (index, renamed, swapped)}) == 3


def test_read_index_when_missing_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reskd dataset import folder DIR --out"):
        read_index(tmp_path / "videos.jsonl")


@pytest.mark.parametrize("content", ["", "a.mp4 3\n", '{"videos": []}\n', "[1]\n"])
def test_read_index_of_foreign_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "videos.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"line 1 of .* is not|not a video index"):
        read_index(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels": [2]}, r"line 3 of .* labels \[2\] in field 'labels'; .* in \[0, 2\)"),
        ({"labels": [-1]}, "line 3 of .* in field 'labels'"),
        ({"labels": []}, "line 3 of .* in field 'labels'; at least one"),
        ({"labels": [True]}, "line 3 of .* in field 'labels'"),
        ({"labels": 1}, "line 3 of .* has 1 in field 'labels'"),
        ({"num_frames": "9"}, "line 3 of .* has '9' in field 'num_frames'"),
        ({"num_frames": -1}, "line 3 of .* negative number"),
        ({"fps": True}, "line 3 of .* has True in field 'fps'"),
        ({"split": None}, "line 3 of .* fields missing or unknown: split"),
        ({"start": 4}, "line 3 of .* fields missing or unknown: start"),
        ({"id": "jump/a b.mp4"}, "line 3 of .* repeats the id 'jump/a b.mp4'"),
        (
            {"id": "jump/a b.mp4", "split": "val"},
            "line 3 of .* into split 'val'; it is already in 'train'",
        ),
        ({"num_frames": 10}, "was changed after it was written"),
        ({"path": "elsewhere.mp4"}, "was changed after it was written"),
    ],
)
def test_read_index_with_wrong_row_names_line_and_field(
    written: Path, change: dict[str, Any], problem: str
) -> None:
    edit(written, 3, **change)
    with pytest.raises(DataError, match=problem):
        read_index(written)


def test_read_index_with_changed_classes_is_refused(written: Path) -> None:
    edit(written, 1, classes=["run", "jump"])
    with pytest.raises(DataError, match="was changed after it was written"):
        read_index(written)


@pytest.mark.parametrize("change", [{"classes": "jump"}, {"root": None}, {"sha256": 3}])
def test_read_index_with_wrong_header_names_field(written: Path, change: dict[str, Any]) -> None:
    edit(written, 1, **change)
    with pytest.raises(DataError, match=f"line 1 of .* field '{next(iter(change))}'"):
        read_index(written)


def test_read_index_cut_in_a_line_names_it(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"line 4 of .* is not JSON"):
        read_index(written)


def test_read_index_without_its_last_line_is_refused(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(DataError, match="was changed after it was written"):
        read_index(written)


def test_write_index_with_unknown_label_writes_nothing(tmp_path: Path) -> None:
    index = VideoIndex(classes=("jump",), root=tmp_path, videos=(entry("a", labels=(1,)),))
    with pytest.raises(DataError, match="labels"):
        write_index(tmp_path / "videos.jsonl", index)
    assert not (tmp_path / "videos.jsonl").exists()


def test_index_module_imports_neither_torch_nor_decoders() -> None:
    code = (
        "import sys, reskd.common.dataset.index\n"
        "print({'torch', 'av', 'decord'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
