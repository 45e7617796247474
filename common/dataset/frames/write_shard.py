"""Making one file of a packed store from finished videos, each in a file of its own.

    images | one ROW per frame | facts as JSON | length of that JSON, 8 bytes

Such a piece is there whole or not at all, and goes when the shard is put together. A killed run
loses only the videos it was decoding; what it costs is to copy each byte once more, seconds
against hours of decoding.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from json import loads
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.hdf5 import damaged_shard, errno_of, read_shard, seal_of_tables
from reskd.common.dataset.frames.plan import FORMAT
from reskd.common.dataset.frames.tables import ROW, VIDEO, Rows, StoredFacts, video_row
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.records import canonical_json
from reskd.common.storage.system_errors import writing

LENGTH_BYTES: Final = 8
COPY_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """One video that is to go into a shard."""

    facts: StoredFacts
    rows: Rows
    """One ROW per kept frame, offsets from the start of the video's images."""
    path: Path | None
    """File that begins with the images; None where there are none."""

    @property
    def image_bytes(self) -> int:
        return int(self.rows["size"].sum(dtype=np.int64))


def write_piece(path: Path, video: KeptVideo) -> None:
    """Decode and encode a video into a file of its own, with little of it in memory.

    Raises:
        UnreadableVideoError: If the video cannot be read; there is no file then.
    """

    def chunks() -> Iterator[bytes]:
        yield from video.images()
        facts = canonical_json(asdict(video.facts))
        yield video.rows.tobytes()
        yield facts
        yield len(facts).to_bytes(LENGTH_BYTES, "little")

    atomic_write(path, chunks())


def read_piece(path: Path) -> Piece:
    """Facts and rows of a finished video; the images stay where they are."""
    with path.open("rb") as file:
        end = file.seek(-LENGTH_BYTES, 2)
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        file.seek(end - length)
        facts = StoredFacts(**loads(file.read(length).decode("utf-8", "surrogateescape")))
        file.seek(end - length - facts.num_frames * ROW.itemsize)
        rows = np.frombuffer(file.read(facts.num_frames * ROW.itemsize), ROW)
    return Piece(facts, rows, path)


def failed_piece(video_id: str, reason: str) -> Piece:
    """What a shard holds of a video that cannot be read."""
    return Piece(StoredFacts(id=video_id, failure=reason), np.empty(0, ROW), None)


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
    header = {
        "format": FORMAT,
        "shard": number,
        "plan": canonical_json(dict(plan)).decode("utf-8"),
        "software": canonical_json(dict(software)).decode("utf-8"),
    }
    with writing(path):
        try:
            _write_tables(path, pieces, header, plan)
        except (OSError, RuntimeError) as error:
            number = errno_of(error) or errno.EIO
            raise OSError(number, os.strerror(number), os.fspath(path)) from error
        with path.open("r+b", buffering=0) as out:
            out.seek(read_shard(path).images_start)
            for piece in pieces:
                _append_images(out.fileno(), piece)
            os.fsync(out.fileno())
    _check(path, pieces)


def _write_tables(
    path: Path, pieces: Sequence[Piece], header: Mapping[str, Any], plan: Mapping[str, Any]
) -> None:
    """Everything but the images, for which room is made."""
    *starts, image_bytes = accumulate((piece.image_bytes for piece in pieces), initial=0)
    firsts = accumulate((len(piece.rows) for piece in pieces), initial=0)
    tables = [_moved(piece.rows, start) for piece, start in zip(pieces, starts, strict=True)]
    facts = [piece.facts for piece in pieces]
    videos = np.array([*map(video_row, facts, tables, firsts)], dtype=VIDEO)
    texts = {"ids": [one.id for one in facts], "failures": [one.failure for one in facts]}
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs.update(header)
        file.attrs["tables_sha256"] = seal_of_tables(videos, [*texts.values()], plan)
        file["videos"] = videos
        file["frames"] = np.concatenate(tables)
        for name, column in texts.items():
            # Names of files need not be valid text.
            coded = [text.encode("utf-8", "surrogateescape") for text in column]
            file.create_dataset(name, data=coded, dtype=h5py.string_dtype())
        at_once = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        at_once.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        at_once.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        at_once.set_obj_track_times(False)  # equal frames, equal bytes
        space = h5py.h5s.create_simple((image_bytes,))
        h5py.h5d.create(file.id, b"images", h5py.h5t.STD_U8LE, space, dcpl=at_once)


def _moved(rows: Rows, start: int) -> Rows:
    moved = rows.copy()
    moved["offset"] += start
    return moved


def _append_images(out: int, piece: Piece) -> None:
    if piece.path is None:
        return
    left = piece.image_bytes
    with piece.path.open("rb", buffering=0) as file:
        while left:
            chunk = memoryview(file.read(min(left, COPY_BYTES)))
            if not chunk:
                raise damaged_shard(piece.path, f"it lacks {left} bytes of its images")
            left -= len(chunk)
            while chunk:
                chunk = chunk[os.write(out, chunk) :]


def _check(path: Path, pieces: Sequence[Piece]) -> None:
    """Read the whole shard as a user does: every count and every image's crc32c."""
    shard = read_shard(path)
    found = [shard.facts(place) for place in range(len(shard.ids))]
    if found != [piece.facts for piece in pieces]:
        raise damaged_shard(path, "the facts read back are not those written")
    for place, piece in enumerate(pieces):
        try:
            count = sum(1 for _ in shard.images(shard.rows(place)))
        except ValueError as error:
            raise damaged_shard(path, f"{piece.facts.id}: {error}") from error
        if count != piece.facts.num_frames:
            raise damaged_shard(
                path, f"{piece.facts.id} has {count} of {piece.facts.num_frames} frames"
            )
