"""A packed store: HDF5 files of encoded frames, every video wholly in one of them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from reskd.common.dataset.frames.hdf5 import Shard, read_shard
from reskd.common.dataset.frames.image_sequence import ImageSequence
from reskd.common.dataset.frames.plan import shard_paths
from reskd.common.dataset.frames.tables import Rows, StoredFacts
from reskd.common.errors import DataError
from reskd.common.video.attempts import settled
from reskd.common.video.reader import UnreadableVideoError

KIND: Final = "frame store"


class PackedStore:
    """Reads a packed store. Its tables are in memory, no file stays open.

    Args:
        path: The store's name: its one file, or `frames.h5` for `frames-00000-of-00012.h5`, ….

    Raises:
        DataError: If files are missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = store_files(path)
        self.shards: list[Shard] = [read_shard(file) for file in self.files]
        plan = self.shards[0].plan
        for number, shard in enumerate(self.shards):
            if shard.number != number or shard.plan != plan:
                raise DataError(
                    f"{shard.path} is not file {number} of the store that {self.files[0]} belongs "
                    "to. Put the right file back, or remove it and extract again"
                )
        self.plan = plan
        self._places = {
            video_id: (shard, place)
            for shard in self.shards
            for place, video_id in enumerate(shard.ids)
        }

    def all_facts(self) -> Iterator[StoredFacts]:
        for shard, place in self._places.values():
            yield shard.facts(place)

    def facts(self, video_id: str) -> StoredFacts | None:
        """What is known of a video; None if the store was made without it."""
        shard, place = self._places.get(video_id, (None, 0))
        return None if shard is None else shard.facts(place)

    def video(self, facts: StoredFacts) -> ImageSequence:
        """A video as a reader."""
        shard, place = self._places[facts.id]
        # The file is where all videos are: without it none of them is missing by itself.
        rows = settled(lambda: _rows(shard, place, facts.id), shard.path, KIND, shard.path)
        return ImageSequence(
            shard.path, KIND, facts, lambda numbers: shard.images(rows[list(numbers)]), shard.path
        )


def _rows(shard: Shard, place: int, video_id: str) -> Rows:
    try:
        return shard.rows(place)
    except ValueError as error:
        raise UnreadableVideoError(shard.path, KIND, f"{video_id}: {error}") from None


def store_files(path: Path) -> list[Path]:
    """The files of a store, in order.

    Raises:
        DataError: If there are none, or some are missing.
    """
    if path.is_file():
        return [path]
    there = numbered_files(path)
    if not there:
        raise DataError(
            f"there is no frame store {path}; make it with "
            f"`reskd dataset extract-frames INDEX --out {path}`"
        )
    counts = {count for count, _ in there}
    if len(counts) > 1:
        raise DataError(
            f"the files {path.stem}-*{path.suffix} in {path.parent} are of several stores, of "
            f"{_listed(counts)} files. Keep those of one"
        )
    (count,) = counts
    missing = set(range(count)) - {number for _, number in there}
    if missing:
        raise DataError(
            f"the frame store {path} lacks {len(missing)} of its {count} files, number "
            f"{_listed(missing)}. Run the same `reskd dataset extract-frames` again to make them"
        )
    return shard_paths(path, count)


def numbered_files(path: Path) -> set[tuple[int, int]]:
    """(files of the store, number) of every file beside `path` that is named as one of it."""
    pattern = re.compile(
        re.escape(path.stem) + r"-(\d{5,})-of-(\d{5,})" + re.escape(path.suffix), re.DOTALL
    )
    if not path.parent.is_dir():
        return set()
    matches = (pattern.fullmatch(file.name) for file in path.parent.iterdir())
    return {(int(match[2]), int(match[1])) for match in matches if match}


def _listed(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered[:10])) + (", …" if len(ordered) > 10 else "")
