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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from json import loads
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from reskd.common.dataset.frames.encode import ROW, Rows, VideoFacts
from reskd.common.dataset.frames.pieces import Piece
from reskd.common.dataset.frames.plan import FORMAT
from reskd.common.errors import DataError
from reskd.common.storage.records import canonical_json

VIDEO: Final = np.dtype(
    [
        *(("first_frame", "<i8"), ("num_frames", "<i4"), ("height", "<i4"), ("width", "<i4")),
        *(("fps", "<f8"), ("source_frames", "<i4"), ("source_fps", "<f8")),
        *(("digest", "S64"), ("rows_crc32c", "<u4")),
    ]
)
COPY_BYTES: Final = 8 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """What a shard says of itself, all checked but the images."""

    path: Path
    number: int
    plan: Mapping[str, Any]
    software: Mapping[str, str]
    """Who decoded and encoded."""
    videos: NDArray[np.void]
    ids: tuple[str, ...]
    failures: tuple[str, ...]
    frames_start: int
    """Byte of the file at which dataset `frames` begins."""
    images_start: int
    image_bytes: int

    def facts(self, place: int) -> VideoFacts:
        row = self.videos[place]
        names = ("num_frames", "height", "width", "fps", "source_frames", "source_fps")
        return VideoFacts(
            id=self.ids[place],
            failure=self.failures[place],
            digest=row["digest"].decode(),
            **{name: row[name].item() for name in names},
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


def write_shard(
    path: Path,
    pieces: Sequence[Piece],
    *,
    number: int,
    plan: Mapping[str, Any],
    software: Mapping[str, str],
) -> None:
    """Put a shard together and read it once whole, under a name that is not yet the final one.

    Raises:
        OSError: As the system reports it.
        DataError: If what was written does not read back.
    """
    starts = list(accumulate((piece.image_bytes for piece in pieces), initial=0))
    firsts = list(accumulate((len(piece.rows) for piece in pieces), initial=0))
    tables = [_moved(piece.rows, start) for piece, start in zip(pieces, starts, strict=False)]
    videos = np.array(
        [_video(*each) for each in zip(pieces, tables, firsts, strict=False)], dtype=VIDEO
    )
    texts = [[p.facts.id for p in pieces], [p.facts.failure for p in pieces]]
    try:
        _write_tables(path, videos, tables, texts, starts[-1], plan, number, software)
        with path.open("r+b", buffering=0) as out:
            out.seek(read_shard(path).images_start)
            for piece in pieces:
                _append_images(out.fileno(), piece)
            os.fsync(out.fileno())
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise
    _check(path, pieces)


def read_shard(path: Path) -> Shard:
    """Read what a shard says of itself.

    Raises:
        DataError: If it is not a whole shard.
    """
    try:
        with h5py.File(path, "r") as file:
            shard = _shard(path, file)
            recorded = file.attrs["tables_sha256"]
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    found = _seal(shard.videos, [list(shard.ids), list(shard.failures)], shard.plan)
    if found != recorded:
        raise _damaged(path, "its tables do not have the sha256 it names")
    if path.stat().st_size < shard.images_start + shard.image_bytes:
        raise _damaged(path, "it is cut off")
    return shard


def _shard(path: Path, file: h5py.File) -> Shard:
    if (found := file.attrs["format"]) != FORMAT:
        raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
    images = file["images"]
    return Shard(
        path=path,
        number=int(file.attrs["shard"]),
        plan=loads(file.attrs["plan"]),
        software=loads(file.attrs["software"]),
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


def _moved(rows: Rows, start: int) -> Rows:
    moved = rows.copy()
    moved["offset"] += start
    return moved


def _video(piece: Piece, rows: Rows, first_frame: int) -> tuple[Any, ...]:
    facts = piece.facts
    return (
        *(first_frame, facts.num_frames, facts.height, facts.width),
        *(facts.fps, facts.source_frames, facts.source_fps),
        *(facts.digest.encode(), crc32c(rows.tobytes())),
    )


def _write_tables(
    path: Path,
    videos: NDArray[np.void],
    tables: Sequence[Rows],
    texts: Sequence[Sequence[str]],
    image_bytes: int,
    plan: Mapping[str, Any],
    number: int,
    software: Mapping[str, str],
) -> None:
    """Everything but the images, for which room is made."""
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs["format"] = FORMAT
        file.attrs["shard"] = number
        file.attrs["plan"] = canonical_json(dict(plan)).decode("utf-8")
        file.attrs["software"] = canonical_json(dict(software)).decode("utf-8")
        file.attrs["tables_sha256"] = _seal(videos, texts, plan)
        file["videos"] = videos
        file["frames"] = np.concatenate(tables)
        for name, column in zip(("ids", "failures"), texts, strict=True):
            # Names of files need not be valid text.
            coded = [text.encode("utf-8", "surrogateescape") for text in column]
            file.create_dataset(name, data=coded, dtype=h5py.string_dtype())
        at_once = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        at_once.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        at_once.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        at_once.set_obj_track_times(False)  # equal frames, equal bytes
        space = h5py.h5s.create_simple((image_bytes,))
        h5py.h5d.create(file.id, b"images", h5py.h5t.STD_U8LE, space, dcpl=at_once)


def _seal(videos: NDArray[np.void], texts: Sequence[Sequence[str]], plan: Mapping[str, Any]) -> str:
    return sha256(videos.tobytes() + canonical_json([*map(list, texts), dict(plan)])).hexdigest()


def _append_images(out: int, piece: Piece) -> None:
    if piece.path is None:
        return
    left = piece.image_bytes
    with piece.path.open("rb", buffering=0) as file:
        while left:
            chunk = memoryview(file.read(min(left, COPY_BYTES)))
            left -= len(chunk)
            while chunk:
                chunk = chunk[os.write(out, chunk) :]


def _check(path: Path, pieces: Sequence[Piece]) -> None:
    """Read the whole shard as a user does: every count and every image's crc32c."""
    shard = read_shard(path)
    found = [shard.facts(place) for place in range(len(shard.ids))]
    if found != [piece.facts for piece in pieces]:
        raise _damaged(path, "the facts read back are not those written")
    for place, piece in enumerate(pieces):
        try:
            count = sum(1 for _ in shard.images(shard.rows(place)))
        except ValueError as error:
            raise _damaged(path, f"{piece.facts.id}: {error}") from error
        if count != piece.facts.num_frames:
            raise _damaged(path, f"{piece.facts.id} has {count} of {piece.facts.num_frames} frames")


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is no whole file of a frame store: {reason}. Remove it and run the same "
        "`reskd dataset extract-frames` again; it makes the missing files only"
    )
