"""One file of a packed store: plain HDF5, with its images one after another.

    images    uint8 (bytes)     every encoded image, contiguous; no chunks, no filters
    frames    ROW (frames)      where each image lies in `images`, its crc32c, its source frame
    videos    VIDEO (videos)    where each video's frames lie in `frames`, and the facts about it
    ids, failures               text (videos)

Why one run of bytes with offsets, and not an array of variable length: HDF5 puts such an array's
pieces into heaps of its own, read under a global lock one by one. A contiguous array is a range of
the file. Its place is asked of HDF5 once; after that an image is one `pread`, without HDF5, lock
or open handle, and so safe in threads and in forked workers. Anybody's h5py still reads it:

    file["images"][row["offset"] : row["offset"] + row["size"]]  # a JPEG or PNG
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from json import loads
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from reskd.common.dataset.frames.plan import FORMAT
from reskd.common.dataset.frames.tables import ROW, Rows, StoredFacts, facts_of_row
from reskd.common.errors import DataError
from reskd.common.storage.kinds import require_file
from reskd.common.storage.records import canonical_json
from reskd.common.video.attempts import read_whole

_ERRNO: Final = re.compile(r"errno = (\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """What a shard says of itself, all checked but the images."""

    path: Path
    number: int
    plan: Mapping[str, Any]
    videos: NDArray[np.void]
    ids: tuple[str, ...]
    failures: tuple[str, ...]
    frames_start: int
    """Byte of the file at which dataset `frames` begins."""
    images_start: int
    image_bytes: int

    def facts(self, place: int) -> StoredFacts:
        return facts_of_row(
            self.videos[place], video_id=self.ids[place], failure=self.failures[place]
        )

    def rows(self, place: int) -> Rows:
        """The ROWs of a video, read from the file.

        Raises:
            ValueError: If they are not what was written.
        """
        video = self.videos[place]
        start = self.frames_start + int(video["first_frame"]) * ROW.itemsize
        with self.path.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), int(video["num_frames"]) * ROW.itemsize, start)
        if crc32c(content) != video["rows_crc32c"]:
            raise ValueError(f"its table of frames in {self.path.name} is damaged (crc32c)")
        return np.frombuffer(content, ROW)

    def images(self, rows: Rows) -> Iterator[bytes]:
        """Encoded images, checked.

        Raises:
            ValueError: If one is not what was written.
        """
        with self.path.open("rb", buffering=0) as file:
            for row in rows:
                start = self.images_start + int(row["offset"])
                image = os.pread(file.fileno(), int(row["size"]), start)
                if crc32c(image) != row["crc32c"]:
                    raise ValueError(f"its image in {self.path.name} is damaged (crc32c)")
                yield image


def read_shard(path: Path) -> Shard:
    """Read what a shard says of itself.

    Raises:
        DataError: If it is not a whole shard.
        OSError: If the system cannot read it.
    """
    require_file(path)
    try:
        with h5py.File(path, "r") as file:
            shard = _shard(path, file)
            recorded = file.attrs["tables_sha256"]
    except Exception as error:  # whatever HDF5 makes of damage
        if (number := errno_of(error)) is not None:
            raise OSError(number, os.strerror(number), os.fspath(path)) from error
        read_whole(path)  # else it is the system's failure
        raise damaged_shard(path, str(error)) from error
    found = seal_of_tables(shard.videos, [list(shard.ids), list(shard.failures)], shard.plan)
    if found != recorded:
        raise damaged_shard(path, "its tables do not have the sha256 it names")
    if path.stat().st_size < shard.images_start + shard.image_bytes:
        raise damaged_shard(path, "it is cut off")
    return shard


def errno_of(error: Exception) -> int | None:
    """What the system has told HDF5, by its text: the exception's kind depends on the call."""
    said = _ERRNO.search(str(error))
    return int(said[1]) if said else None


def _shard(path: Path, file: h5py.File) -> Shard:
    if (found := file.attrs["format"]) != FORMAT:
        raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
    images = file["images"]
    return Shard(
        path=path,
        number=int(file.attrs["shard"]),
        plan=loads(file.attrs["plan"]),
        videos=file["videos"][:],
        ids=_texts(file["ids"]),
        failures=_texts(file["failures"]),
        frames_start=_start(file["frames"]),
        images_start=_start(images),
        image_bytes=int(images.shape[0]),
    )


def _start(dataset: h5py.Dataset) -> int:
    """Byte at which a contiguous dataset begins; 0 for an empty one, which has no place."""
    if dataset.chunks is not None or dataset.compression is not None:
        raise ValueError(f"dataset {dataset.name} was rewritten in chunks; it must be contiguous")
    return int(dataset.id.get_offset() or 0)


def _texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", "surrogateescape") for text in dataset[:])


def seal_of_tables(
    videos: NDArray[np.void], texts: Sequence[Sequence[str]], plan: Mapping[str, Any]
) -> str:
    """sha256 that the tables are recognised by; that of `frames` is in `videos`."""
    return sha256(videos.tobytes() + canonical_json([*map(list, texts), dict(plan)])).hexdigest()


def damaged_shard(path: Path, reason: str) -> DataError:
    """The error of a shard that cannot be used, with what to do."""
    return DataError(
        f"{path} is no whole file of a frame store: {reason}. Remove it and run the same "
        "`reskd dataset extract-frames` again; it makes the missing files only"
    )
