"""The trial of one video: open it, decode the frames a clip would take, and say how it went.

FFmpeg's own errors are listened to, because it goes on where it can: a file that opens after one
is suspect, and then all its frames are decoded, not only those a clip would take.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av.logging
import numpy as np

from reskd.common.dataset.check.verdicts import (
    VideoCheck,
    decoded,
    frames_needed,
    hint_of,
    promise_broken,
    refusal,
    size_complaint,
)
from reskd.common.dataset.index import VideoEntry, VideoIndex
from reskd.common.dataset.open import open_entry
from reskd.common.experiment import ClipSpec, DataSpec
from reskd.common.storage.kinds import open_file
from reskd.common.storage.system_errors import ABSENT
from reskd.common.video.attempts import root_lost
from reskd.common.video.reader import UnreadableVideoError, in_parts
from reskd.common.video.sampling import frame_indices, test_offsets
from reskd.common.video.video_file import FileReader, PyAVReader

BATCH_BYTES = 512 * 2**20
"""Most pixels decoded at once: the 17 frames of a default check, at 4K."""
HEAD_BYTES = 512
WALK_FRAMES = 16
"""Frames of a whole video between two signs of life."""

Alive = Callable[[], None]
"""Called after each finished step, so that slow is not taken for stuck."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One video and how thoroughly to try it."""

    entry: VideoEntry
    root: Path
    """Folder that the entry's path starts from."""
    data: DataSpec
    """Says who decodes."""
    clip: ClipSpec
    every_frame: bool
    """Whether FFmpeg decodes the whole video as well."""

    @property
    def path(self) -> Path:
        return self.root / self.entry.path


def try_video(trial: Trial, alive: Alive) -> VideoCheck:
    """Decode the frames that a test clip would take, and the last one.

    Args:
        trial: The video. That it may be in quarantine does not matter.
        alive: Called after each step.

    Raises:
        StoppedShortError: If the system cannot read it.
    """
    index = VideoIndex(classes=(), root=trial.root, videos=())
    if (problem := _absent(trial.path)) and root_lost(trial.root) is None:
        return VideoCheck(verdict="missing", message=problem)
    head = _head(trial.path)
    frames, complaints = 0, list[str]()
    try:
        with _listening(complaints):
            reader = open_entry(index, trial.entry, trial.data)
        alive()
        if cut := size_complaint(head, _num_bytes(trial.path)):
            complaints.append(cut)
        frames, complaint = reader.num_frames, next(iter(complaints), "")
        indexed = trial.entry.num_frames
        facts = reader.facts if isinstance(reader, FileReader) else None
        broken = promise_broken(
            frames=frames,
            indexed=indexed,
            shortfall=facts.shortfall if facts is not None else None,
            complaint=complaint,
        )
        if broken is not None:
            return broken
        positions = sampled(frames, trial.clip)
        for part in in_parts(positions, reader, most_bytes=BATCH_BYTES):
            reader.frames(part)
            alive()
        if facts is not None and (trial.every_frame or complaint):
            for position in PyAVReader(trial.path, facts, root=trial.root).walk():
                if position % WALK_FRAMES == 0:
                    alive()
    except UnreadableVideoError as error:
        return refusal(
            error,
            frames=frames,
            complaint=next(iter(complaints), ""),
            hint="" if frames else hint_of(head),
        )
    needed = frames_needed(trial.clip)
    return decoded(frames=frames, needed=needed, indexed=indexed, complaint=complaint)


def sampled(num_frames: int, clip: ClipSpec) -> list[int]:
    """Frames of a test clip, and the last: sorted, distinct."""
    offsets = test_offsets(num_frames, clip=clip)
    chosen = frame_indices(offsets, num_frames=num_frames, clip=clip)
    return [int(position) for position in np.unique([*chosen, num_frames - 1])]


def _absent(path: Path) -> str:
    """Why there is nothing to read; empty if there is."""
    try:
        path.stat()
    except OSError as error:
        return (error.strerror or str(error)) if error.errno in ABSENT else ""
    return "" if os.access(path, os.R_OK) else "Permission denied"


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _head(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b"?"


@contextmanager
def _listening(heard: list[str]) -> Iterator[None]:
    """Collect the errors that FFmpeg writes, as `part: message`."""
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines:
            yield
    finally:
        av.logging.set_level(None)
        heard += [f"{part}: {message.strip()}" for _, part, message in lines]
