"""Videos and annotation files in a scratch folder, and the command that imports them."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from reskd.common.cli.main import main
from reskd.common.dataset.index import VideoIndex, read_index
from tests.video_files import numbered_frames, write_video

Tree = Callable[..., Path]
Videos = Callable[..., Path]
Import = Callable[..., int]

serial = count()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A readable video of 8 frames at 12 per second."""
    path = write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered_frames(8))
    return path.read_bytes()


@pytest.fixture
def videos(tmp_path: Path, clip: bytes) -> Videos:
    """Write readable videos of the given names, no two of equal bytes; returns their folder."""

    def write(*names: str) -> Path:
        folder = tmp_path / "my videos"
        folder.mkdir(exist_ok=True)
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Bytes after the end do not matter to MP4; without them these were copies.
            path.write_bytes(clip + bytes([0, 0, 0, 10]) + b"free" + next(serial).to_bytes(2))
        return folder

    return write


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Make files below a folder, each of its own bytes; enough where videos are not opened."""

    def make(*names: str) -> Path:
        directory = tmp_path / "my videos"
        directory.mkdir(exist_ok=True)
        for name in names:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{next(serial)} {name}")
        return directory

    return make


@pytest.fixture
def frames(tmp_path: Path) -> Videos:
    """Make folders of images `img_00001.png` and so on, of 4 each."""

    def make(*names: str, number: int = 4) -> Path:
        for name in names:
            folder = tmp_path / "my videos" / name
            folder.mkdir(parents=True, exist_ok=True)
            for image in range(1, number + 1):
                Image.new("RGB", (16, 12)).save(folder / f"img_{image:05d}.png")
        return tmp_path / "my videos"

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write an annotation file."""

    def to(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return to


@pytest.fixture
def import_(tmp_path: Path) -> Import:
    """Run `reskd dataset import`; the videos lie in `my videos`, the index is `index.jsonl`."""

    def run(name: str, *arguments: str | Path | int) -> int:
        return main(
            [
                *("dataset", "import", name),
                *map(str, arguments),
                *([] if "--videos" in arguments else ["--videos", str(tmp_path / "my videos")]),
                *("--out", str(tmp_path / "index.jsonl"), "--jobs", "2", "--overwrite"),
            ]
        )

    return run


@pytest.fixture
def index(tmp_path: Path) -> Callable[[], VideoIndex]:
    """Read the index that was written."""
    return lambda: read_index(tmp_path / "index.jsonl")
