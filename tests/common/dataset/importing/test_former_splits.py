"""A folder that is imported again keeps the split that was drawn, whatever was renamed."""

from dataclasses import replace
from pathlib import Path

import pytest

from reskd.common.dataset.content import ContentFacts
from reskd.common.dataset.importing.former_splits import with_former_splits
from reskd.common.dataset.importing.pipeline import import_folder
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.errors import DataError
from tests.tiny_experiment import make_tiny_videos


def splits(index: VideoIndex) -> dict[str, str]:
    """By the name of the class's last letter and the file: renaming a class keeps both."""
    return {video.id[-6:]: video.split for video in index.videos}


def imported(folder: Path, *, overwrite: bool = False) -> VideoIndex:
    index, _ = import_folder(
        folder / "videos",
        folder / "index.jsonl",
        val_fraction=0.25,
        overwrite=overwrite,
        decoder="pyav",
    )
    return index


def test_a_renamed_class_keeps_its_split_when_the_index_is_replaced(tmp_path: Path) -> None:
    videos = make_tiny_videos(tmp_path / "videos", videos_per_class=8, classes=2, num_frames=4)
    before = splits(imported(tmp_path))
    for name in ("zb", "yb", "xb", "wb"):  # some of these would be drawn otherwise
        next(path for path in videos.iterdir() if path.name.endswith("b")).rename(videos / name)
        assert splits(imported(tmp_path, overwrite=True)) == before
    (videos / "wb").rename(videos / "vb")
    with pytest.raises(DataError, match="this import would change it"):
        imported(tmp_path)


def test_a_folder_s_own_splits_are_never_those_of_an_index_before(tmp_path: Path) -> None:
    drawn = make_tiny_videos(tmp_path / "videos", videos_per_class=4, classes=2, num_frames=4)
    imported(tmp_path)
    own = tmp_path / "videos" / "val"
    for folder in list(drawn.iterdir()):
        own.mkdir(exist_ok=True)
        folder.rename(own / folder.name)
    (tmp_path / "videos" / "val").rename(tmp_path / "videos" / "test")
    index = imported(tmp_path, overwrite=True)
    assert index.split_names() == ("test",)


def listed(*videos: str) -> VideoIndex:
    """An index of videos given as `id content split`."""
    entries = []
    for id_, content, split in map(str.split, videos):
        facts = ContentFacts(bytes=7, sha256=content, width=4, height=3)
        entry = VideoEntry(id=id_, path=id_, labels=(0,), split=split, num_frames=9, fps=25.0)
        entries.append(replace(entry, content=facts))
    return VideoIndex(classes=("a",), root=Path("/videos"), videos=tuple(entries))


@pytest.mark.parametrize(
    ("former", "now", "expected"),
    [
        (["x A train", "y B val"], ["x B train", "y A val"], {"x": "val", "y": "train"}),
        (["x A train", "y B val"], ["x B train"], {"x": "val"}),
        (["x A train", "y A train"], ["p A val", "q A val"], {"p": "train", "q": "train"}),
        (["x A train", "y A val"], ["x A val", "q A val"], {"x": "train", "q": "val"}),
        (["x A train"], ["x B val"], {"x": "train"}),
    ],
    ids=["names-swapped", "name-passed-on", "copies", "copies-on-both-sides", "replaced"],
)
def test_a_split_goes_with_the_content_of_a_video(
    former: list[str], now: list[str], expected: dict[str, str]
) -> None:
    found = with_former_splits(listed(*former), listed(*now))
    assert {video.id: video.split for video in found.videos} == expected
