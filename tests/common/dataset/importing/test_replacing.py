"""An import refuses to replace an index that says something else, unless it is told to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from tests.video_files import numbered_frames, write_video

Edit = Callable[[Path], None]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("jump/a", "jump/b", "run/c", "run/e"):
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, numbered_frames(4 + ord(name[-1]) % 5))
    return tmp_path / "videos"


def _import(videos: Path, *options: str) -> int:
    out = str(videos.parent / "index.jsonl")
    return main(["dataset", "import", "folder", str(videos), "--out", out, "--val", "0", *options])


def test_same_import_again_is_fine(videos: Path) -> None:
    assert _import(videos) == 0
    before = (videos.parent / "index.jsonl").read_bytes()
    assert _import(videos) == 0
    assert (videos.parent / "index.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda videos: (videos / "run/c.mp4").rename(videos / "run/d.mp4"),
            "1 videos more",
        ),
        (lambda videos: (videos / "jump/a.mp4").unlink(), "1 fewer"),
        (lambda videos: (videos / "run").rename(videos / "walk"), "its 2 classes would become 2"),
        (
            lambda videos: (videos / "jump/b.mp4").replace(videos / "jump/a.mp4") and None,
            "1 fewer",
        ),
        (
            lambda videos: (videos.parent / "index.jsonl").write_text("my notes\n") and None,
            "no index that can be read",
        ),
    ],
    ids=["renamed", "removed", "class renamed", "moved over another", "another file"],
)
def test_import_that_would_change_an_index_is_refused_until_told_to_overwrite(
    videos: Path, edit: Edit, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _import(videos) == 0
    edit(videos)
    before = (videos.parent / "index.jsonl").read_bytes()
    assert _import(videos) == 3
    error = capsys.readouterr().err
    assert said in error
    assert "--overwrite" in error
    assert (videos.parent / "index.jsonl").read_bytes() == before
    assert _import(videos, "--overwrite") == 0
    assert len(read_index(videos.parent / "index.jsonl").videos) == len(list(videos.rglob("*.mp4")))


def test_other_split_of_the_same_videos_is_another_index(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _import(videos) == 0
    capsys.readouterr()
    assert _import(videos, "--val", "0.5") == 3
    assert "in another split" in capsys.readouterr().err
