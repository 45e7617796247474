"""Before a store is made: how many frames, bytes and seconds, from a probe of a few videos."""

import time
from dataclasses import dataclass
from typing import Final

import torch

from reskd.common.console import in_lines, progress
from reskd.common.dataset.frames.encode import KeptVideo
from reskd.common.dataset.frames.extract import Extraction, check_out
from reskd.common.dataset.frames.plan import expected_frames
from reskd.common.dataset.frames.tables import ROW, VIDEO
from reskd.common.dataset.index import VideoEntry
from reskd.common.errors import DataError
from reskd.common.video.reader import UnreadableVideoError

PROBED_VIDEOS: Final = 10
PROBED_FRAMES: Final = 64
"""Of each; from the first on, as the real work does it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameForecast:
    """What making a store will take."""

    frames: str
    """Path."""
    layout: str
    videos: int
    kept_frames: int
    """By the lengths and rates that the index knows."""
    files: int
    bytes: int
    seconds: float
    """With `jobs` jobs, if there are as many processors."""
    jobs: int
    probed_videos: int
    probed_frames: int
    unreadable: tuple[str, ...]
    """Videos that the probe could not read."""

    @property
    def text(self) -> str:
        """For people."""
        unreadable = [f"unreadable: {', '.join(self.unreadable)}"] if self.unreadable else []
        return in_lines(
            f"{self.frames}: {self.kept_frames} frames of {self.videos} videos in {self.files} "
            "files",
            f"{_size(self.bytes)}, about {_time(self.seconds)} with {self.jobs} jobs",
            f"frames: from the lengths in the index; bytes and time: {self.probed_frames} frames "
            f"of {self.probed_videos} videos, evenly spread over the index, were decoded and "
            "encoded and their mean per frame taken, each video weighed by its frames",
            *unreadable,
            "Nothing was written.",
        )


def forecast_frames(extraction: Extraction) -> FrameForecast:
    """Decode and encode the beginning of a few videos, and write nothing.

    Raises:
        DataError: If none of them can be read, or --out cannot be a store.
    """
    check_out(extraction)
    torch.set_num_threads(1)
    entries = extraction.entries
    expected = [expected_frames(entry, extraction.options) for entry in entries]
    weight = frames = 0
    image_bytes = seconds = 0.0
    unreadable: list[str] = []
    chosen = _spread(len(entries), PROBED_VIDEOS)
    with progress("probing", len(chosen), unit="videos") as advance:
        for place in chosen:
            try:
                count, size, taken = _probe(extraction, entries[place])
            except UnreadableVideoError:
                unreadable.append(entries[place].id)
            else:
                frames += count
                weight += expected[place]
                image_bytes += size / count * expected[place]
                seconds += taken / count * expected[place]
            advance()
    if not weight:
        fault = (
            f"can be read, {unreadable[0]} is the first"
            if unreadable
            else "has frames as the index says; import the videos again"
        )
        raise DataError(f"none of the {len(chosen)} videos probed {fault}")
    total, packed = sum(expected), extraction.layout == "packed"
    tables = total * ROW.itemsize + len(entries) * (VIDEO.itemsize + 64) if packed else 0
    return FrameForecast(
        frames=str(extraction.out.absolute()),
        layout=extraction.layout,
        videos=len(entries),
        kept_frames=total,
        files=len(extraction.shards) if packed else total + 1,
        bytes=round(image_bytes / weight * total) + tables,
        seconds=seconds / weight * total / extraction.jobs,
        jobs=extraction.jobs,
        probed_videos=len(chosen) - len(unreadable),
        probed_frames=frames,
        unreadable=tuple(unreadable),
    )


def _probe(extraction: Extraction, entry: VideoEntry) -> tuple[int, int, float]:
    """Frames, bytes and seconds of the beginning of a video."""
    start = time.perf_counter()
    video = KeptVideo(
        extraction.index, entry, extraction.data, extraction.options, limit=PROBED_FRAMES
    )
    sizes = [len(image) for image in video.images()]
    return len(sizes), sum(sizes), time.perf_counter() - start


def _spread(total: int, wanted: int) -> list[int]:
    """Places evenly spread over `total`, from the middle of equal parts."""
    wanted = min(total, wanted)
    return [(2 * part + 1) * total // (2 * wanted) for part in range(wanted)]


def _size(num_bytes: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds:.0f} s"
