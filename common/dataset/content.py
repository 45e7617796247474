"""What tells a video's content from another's, whatever it is called and wherever it lies."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final

from pydantic import ConfigDict

from reskd.common.dataset.fields import ROW, Bytes, Count, Text

EDGE_BYTES: Final = 1 << 20
"""Of the beginning and of the end of a file, looked at. A file that is copied, moved or renamed
keeps them; one that is cut, encoded anew or put into another container does not. Reading files
whole would cost an import of Kinetics-400 hours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentFacts:
    """Taken when a video is imported; equal facts, number of frames and rate: one video."""

    __pydantic_config__: ClassVar[ConfigDict] = ROW

    bytes: Bytes
    """Length of the file; of a folder of images of all of them."""
    sha256: Text
    """Hexadecimal digest of the file's first and last EDGE_BYTES, or of a file that is no longer
    than both of the whole; of a folder of images that of its first and its last file."""
    width: Count
    """In pixels."""
    height: Count
    """In pixels."""


def content_facts(files: Sequence[Path], *, width: int, height: int) -> ContentFacts:
    """The facts of a video.

    Args:
        files: The one file, or the images of a folder in their order.
        width: Of its frames, in pixels.
        height: Likewise.

    Raises:
        OSError: As the system reports it.
    """
    edges = sha256()
    for file in dict.fromkeys((files[0], files[-1])):
        for part in _edges(file):
            edges.update(part)
    return ContentFacts(
        bytes=sum(file.stat().st_size for file in files),
        sha256=edges.hexdigest(),
        width=width,
        height=height,
    )


def _edges(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        yield stream.read(EDGE_BYTES)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(EDGE_BYTES, size - EDGE_BYTES))
        yield stream.read(EDGE_BYTES)
