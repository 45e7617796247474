"""Folders of images from elsewhere: what is read from them, and that imports refuse the rest."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reskd.common.dataset.frames.folders import checked_folder, open_image_folder
from reskd.common.dataset.frames.image_io import ORIENTATION
from reskd.common.video.reader import UnreadableVideoError


def save(folder: Path, names: Iterable[str], *, size: tuple[int, int] = (24, 16)) -> Path:
    """Images of size (W, H), each of its own grey: 10 for the first, 20 and so on."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, start=1):
        Image.new("RGB", size, (10 * number,) * 3).save(folder / name)
    return folder


def greys(folder: Path) -> list[int]:
    length = checked_folder(folder).num_frames
    with open_image_folder(folder) as video:
        return [int(frame[0, 0, 0]) for frame in video.frames(range(length))]


@pytest.mark.parametrize(
    "numbers",
    [[1, 2, 3], [0, 1], [213, 214, 215], [0, 5, 10, 15], [8, 9, 10, 11], [7]],
    ids=["from 1", "from 0", "from anywhere", "every fifth", "digits", "one"],
)
def test_numbers_begin_anywhere_and_count_in_equal_steps(
    tmp_path: Path, numbers: list[int]
) -> None:
    save(tmp_path, [f"f_{number}.png" for number in numbers])
    assert greys(tmp_path) == [10 * at for at in range(1, len(numbers) + 1)]


@pytest.mark.parametrize("flow", [("flow_x_", "flow_y_"), ("x_", "y_"), ("u-", "v-")])
def test_flow_beside_frames_is_passed_over(tmp_path: Path, flow: tuple[str, str]) -> None:
    names = [f"img_{number:05d}.png" for number in (1, 2)]
    save(tmp_path, names + [f"{kind}{number:05d}.png" for kind in flow for number in (1, 2)])
    assert greys(tmp_path) == [10, 20]


def test_flow_alone_is_not_taken_for_frames(tmp_path: Path) -> None:
    save(tmp_path, ["flow_x_1.png", "flow_y_1.png"])
    with pytest.raises(UnreadableVideoError, match="several kinds"):
        checked_folder(tmp_path)


def test_preview_beside_frames_is_refused_with_the_remedy(tmp_path: Path) -> None:
    save(tmp_path, ["img_1.png", "img_2.png", "poster.png"])
    with pytest.raises(UnreadableVideoError, match=r"poster\.png has no number.*move it elsewhere"):
        checked_folder(tmp_path)


def test_images_of_another_size_in_the_middle_are_refused_at_import(tmp_path: Path) -> None:
    save(tmp_path, ["1.png", "2.png", "3.png"])
    Image.new("RGB", (16, 24)).save(tmp_path / "2.png")
    with pytest.raises(UnreadableVideoError, match=r"2\.png has 24x16 pixels .* first 16x24"):
        checked_folder(tmp_path)


@pytest.mark.parametrize("deep", [1, 2, 3])
def test_images_of_16_bits_are_refused_at_import(tmp_path: Path, deep: int) -> None:
    save(tmp_path, ["1.png", "2.png", "3.png"])
    Image.fromarray(np.full((16, 24), 3000, np.uint16)).save(tmp_path / f"{deep}.png")
    with pytest.raises(UnreadableVideoError, match=r"mode I;16, not 8 bits.*convert"):
        checked_folder(tmp_path)


def test_cut_off_last_image_is_refused_at_import(tmp_path: Path) -> None:
    save(tmp_path, ["1.png", "2.png"])
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) - 30])
    with pytest.raises(UnreadableVideoError, match="no whole image"):
        checked_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_turned_as_their_exif_data_say(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, :16] = 200
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    stored = Image.fromarray(np.rot90(upright, turns).copy())
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for number in (1, 2):
        stored.save(tmp_path / f"{number}.{suffix}", exif=exif)
    assert checked_folder(tmp_path).num_frames == 2
    with open_image_folder(tmp_path) as video:
        assert (video.height, video.width) == (16, 32)
        (frame,) = video.frames([1])
    assert np.abs(frame.astype(int) - upright).mean() < 5


def test_upright_and_turned_images_of_one_size_are_one_video(tmp_path: Path) -> None:
    save(tmp_path, ["1.png", "2.png", "3.png"])
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (16, 24), (20, 20, 20)).save(tmp_path / "2.png", exif=exif)
    assert greys(tmp_path) == [10, 20, 30]
