"""What is kept of one video: its encoded images as they are made, then the facts about them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from threading import Event
from typing import Final

import numpy as np
from google_crc32c import value as crc32c

from reskd.common.dataset.frames.image_io import encode_images
from reskd.common.dataset.frames.plan import FrameOptions, kept_frames, kept_size
from reskd.common.dataset.frames.tables import ROW, Rows, StoredFacts
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.experiment import DataSpec
from reskd.common.storage.records import canonical_json
from reskd.common.video.reader import UnreadableVideoError, in_parts

DECODE_BYTES: Final = 256 << 20
"""Pixels decoded at once per job. PyAV begins at the first frame each time, so more is faster."""


class StoppedError(Exception):
    """Another part of the run failed, so this one stops."""


@dataclass(slots=True)
class KeptVideo:
    """Decodes, resizes and encodes one video, a bounded number of frames at a time.

    `images` must be exhausted before `facts` and `rows` are asked for.
    """

    index: VideoIndex
    entry: VideoEntry
    data: DataSpec
    options: FrameOptions
    stop: Event = field(default_factory=Event)
    """Set when the rest of the video is no longer wanted."""
    limit: int | None = None
    """Frames after which to end, for a probe."""
    _facts: StoredFacts | None = field(default=None, init=False)
    _rows: list[tuple[int, int, int, int]] = field(default_factory=list, init=False)

    def images(self) -> Iterator[bytes]:
        """The encoded images in order.

        Raises:
            UnreadableVideoError: If a frame cannot be decoded, or the video's rate is needed and
                neither its file nor the index tells it.
            StoppedError: If the run ends.
        """
        with open_entry(self.index, self.entry, self.data) as video:
            source_fps = video.fps or self.entry.fps
            if self.options.fps is not None and source_fps <= 0:
                raise UnreadableVideoError(
                    self.index.path_of(self.entry),
                    "extract-frames",
                    "nothing tells how many frames a second it has; --fps native keeps all",
                )
            numbers = kept_frames(video.num_frames, source_fps, self.options.fps)[: self.limit]
            hashed, offset = sha256(), 0
            for part in in_parts(numbers, video, most_bytes=DECODE_BYTES):
                coded_images = encode_images(video.frames(part), self.options)
                for source, coded in zip(part, coded_images, strict=True):
                    if self.stop.is_set():
                        raise StoppedError
                    self._rows.append((offset, len(coded), crc32c(coded), source))
                    offset += len(coded)
                    hashed.update(coded)
                    yield coded
            height, width = kept_size(video.height, video.width, self.options.short_side)
            facts = StoredFacts(
                id=self.entry.id,
                num_frames=len(numbers),
                height=height,
                width=width,
                fps=source_fps if self.options.fps is None else min(source_fps, self.options.fps),
                source_frames=video.num_frames,
                source_fps=source_fps,
            )
            # Not the id: equal films have equal digests. Sizes tell where one image ends.
            sizes = [size for _, size, _, _ in self._rows]
            hashed.update(canonical_json([asdict(facts) | {"id": ""}, list(numbers), sizes]))
            self._facts = replace(facts, digest=hashed.hexdigest())

    @property
    def facts(self) -> StoredFacts:
        assert self._facts is not None, "its images were not exhausted"
        return self._facts

    @property
    def rows(self) -> Rows:
        """One ROW per kept frame; offsets start at 0."""
        return np.array(self._rows, ROW)
