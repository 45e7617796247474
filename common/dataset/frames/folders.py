"""Plain folders of images: the layout that the reference and other programs exchange.

    ROOT/<video id>/img_00001.png …     numbered from 1, five digits or as many as it takes
    ROOT/frames.json                    our record: facts, digests and failures, written last

A data set becomes millions of files; to train, use the packed store. Images in folders carry no
checksum: one that is cut off is noticed, one that was replaced is not.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from reskd.common.dataset.frames.image_io import decode_one, size_of
from reskd.common.dataset.frames.image_sequence import ImageSequence
from reskd.common.dataset.frames.tables import StoredFacts
from reskd.common.errors import CacheError, DataError
from reskd.common.storage.kinds import read_file
from reskd.common.storage.records import read_record
from reskd.common.video.attempts import settled
from reskd.common.video.reader import UnreadableVideoError

RECORD_FILE: Final = "frames.json"
KIND: Final = "folder of images"
IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".webp"})
NUMBERED: Final = re.compile(r"(.*?)(\d+)(\.[^.]+)", re.DOTALL)
"""What comes before the number, the number, the suffix."""
FLOW: Final = re.compile(r"flow.*|[xyuv][_-]", re.IGNORECASE)
"""What comes before the number of an image of optical flow, as TSN's tools and others name them."""


def image_name(number: int, suffix: str) -> str:
    """Name of frame `number`, which counts from 0; names count from 1, as the reference's do."""
    return f"img_{number + 1:05d}.{suffix}"


class FolderStore:
    """Reads folders that `reskd dataset extract-frames --layout folders` made.

    Args:
        root: Their folder.

    Raises:
        DataError: If its record is missing or was changed.
    """

    def __init__(self, root: Path) -> None:
        self.path = root
        self.files = [root / RECORD_FILE]
        try:
            record = read_record(self.files[0])
        except FileNotFoundError as error:
            raise DataError(
                f"{root} holds no {RECORD_FILE}, so it is no finished frame store. Run the same "
                "`reskd dataset extract-frames` again to finish it; folders of images from "
                "elsewhere are imported as videos instead: `reskd dataset import`"
            ) from error
        except CacheError as error:
            raise DataError(str(error)) from error
        self.plan: dict[str, Any] = record["plan"]
        self._facts = {row["id"]: StoredFacts(**row) for row in record["videos"]}

    def all_facts(self) -> Iterator[StoredFacts]:
        yield from self._facts.values()

    def facts(self, video_id: str) -> StoredFacts | None:
        """What is known of a video; None if the store was made without it."""
        return self._facts.get(video_id)

    def video(self, facts: StoredFacts) -> ImageSequence:
        """A video as a reader."""
        suffix = self.plan["image_format"]
        names = [image_name(number, suffix) for number in range(facts.num_frames)]
        return _sequence(self.path / facts.id, names, facts, self.path)


def open_image_folder(folder: Path, root: Path | None = None) -> ImageSequence:
    """A folder of numbered images from anywhere, as a video of unknown rate.

    Args:
        folder: The images.
        root: Folder of all videos.

    Raises:
        UnreadableVideoError: If it holds no images, or they are not one row of numbers in equal
            steps: a frame that is missing would shift all that follow.
        StoppedShortError: If the system cannot read them.
    """
    return settled(lambda: _open_once(folder, root), folder, KIND, root)


def _open_once(folder: Path, root: Path | None) -> ImageSequence:
    names = numbered_images(folder)
    try:
        (first,) = _read(folder, names[:1])
        height, width, _ = decode_one(first).shape
    except ValueError as error:
        raise UnreadableVideoError(folder, KIND, f"image {names[0]}: {error}") from None
    facts = StoredFacts(id=folder.name, num_frames=len(names), height=height, width=width)
    return _sequence(folder, names, facts, root)


def checked_folder(folder: Path, root: Path | None = None) -> ImageSequence:
    """A folder of images after a look at each, so that what is imported can be read.

    The first and the last are decoded, as those of a video file are; of the others size and depth
    are read.

    Raises:
        UnreadableVideoError: See open_image_folder; or if an image cannot be read or is of another
            size than the first.
        StoppedShortError: If the system cannot read them.
    """
    with open_image_folder(folder, root) as video:
        video.frames([0, video.num_frames - 1])
    settled(lambda: _check_sizes(folder, (video.height, video.width)), folder, KIND, root)
    return video


def _check_sizes(folder: Path, size: tuple[int, int]) -> None:
    for name in numbered_images(folder):
        try:
            other = size_of(folder / name)
        except ValueError as error:
            raise UnreadableVideoError(folder, KIND, f"image {name}: {error}") from None
        if other != size:
            raise UnreadableVideoError(
                folder,
                KIND,
                f"image {name} has {other[0]}x{other[1]} pixels (height x width), the first "
                f"{size[0]}x{size[1]}; all frames of a video need one size",
            )


def numbered_images(folder: Path) -> list[str]:
    """Names of a folder's images in the order of their numbers, 9 before 10.

    Numbers may begin anywhere and count in steps (every fifth frame). Images of optical flow
    beside those of the video are passed over.

    Raises:
        UnreadableVideoError: See open_image_folder.
    """
    try:
        names = [name for name in os.listdir(folder) if _is_image(name)]  # noqa: PTH208 - fast
    except OSError as error:
        raise UnreadableVideoError(folder, KIND, str(error.strerror)) from error
    if not names:
        raise UnreadableVideoError(folder, KIND, "it holds no images")
    kinds: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for name in sorted(names):
        if (match := NUMBERED.fullmatch(name)) is None:
            problem = f"image {name} has no number at its end; if it is no frame, move it elsewhere"
            raise UnreadableVideoError(folder, KIND, problem)
        numbered = kinds[match[1], match[3]]
        if (other := numbered.setdefault(int(match[2]), name)) != name:
            raise UnreadableVideoError(folder, KIND, f"{other} and {name} have the same number")
    frames = [kind for kind in kinds if len(kinds) == 1 or not FLOW.fullmatch(kind[0])]
    if len(frames) != 1:
        found = [f"{before}…{suffix}" for before, suffix in kinds]
        problem = f"it holds images of several kinds: {found}; leave only the frames there"
        raise UnreadableVideoError(folder, KIND, problem)
    numbered = kinds[frames[0]]
    numbers = sorted(numbered)
    if (absent := _missing(numbers)) is not None:
        raise UnreadableVideoError(folder, KIND, f"image number {absent} is missing")
    return [numbered[number] for number in numbers]


def _missing(numbers: Sequence[int]) -> int | None:
    """The first number that a row in equal steps lacks; None if it is whole."""
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    # Two numbers apart may as well be a row with a gap.
    step = min(steps, default=1) if len(steps) > 1 else 1
    return next((numbers[at] + step for at, found in enumerate(steps) if found != step), None)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - fast


def _sequence(
    folder: Path, names: Sequence[str], facts: StoredFacts, root: Path | None
) -> ImageSequence:
    return ImageSequence(
        folder, KIND, facts, lambda numbers: _read(folder, [names[n] for n in numbers]), root
    )


def _read(folder: Path, names: Sequence[str]) -> Iterator[bytes]:
    for name in names:
        try:
            content = read_file(folder / name)
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from None
        if not content:
            raise ValueError(f"{name} is empty")
        yield content
