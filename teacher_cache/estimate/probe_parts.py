"""The parts of a probe: decoding alone, the running pipeline, writing; see probe.py for why."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from reskd.common.dataset.index import VideoEntry
from reskd.common.distill.arrays import Row
from reskd.common.distill.teacher import BATCH_GROUP, Teacher, TeacherOutput
from reskd.common.errors import DataError
from reskd.teacher_cache.fill.compute import (
    Request,
    VideoOutput,
    compute_outputs,
    cut_videos,
    run_in_groups,
)
from reskd.teacher_cache.fill.writer import BackgroundWriter, UnitBuffers, write_unit
from reskd.teacher_cache.format.manifest import Manifest

SUSTAINED_BYTES = 512_000_000
"""Written at most."""
MOST_UNREADABLE = 50
"""Unreadable videos after which, if there was no other, the probe gives up."""
DECODED_PER_THREAD = 64
"""Videos handed to each decoding thread at a time."""


class CannotProbeError(DataError):
    """There is nothing here to measure with; counts and bytes can be told all the same."""


@dataclass(kw_only=True, slots=True)
class Bench:
    """What the parts of a probe share."""

    request: Request
    """All planned views and arrays."""
    entries: Sequence[VideoEntry]
    """Videos in the order in which they are tried."""
    manifest: Manifest
    """Of the temporary cache, which has one unit."""
    folder: Path
    """The temporary cache."""
    grouped: bool
    """Whether the teacher is in mode batch."""
    part_seconds: float
    deadline: float
    """By the clock of time.perf_counter."""
    tried: int = 0
    """Videos taken so far; each part goes on where the one before it stopped."""
    seen: set[str] = field(default_factory=set)
    """Ids of the videos that could be read."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Ids of the others, with the reason."""

    def take(self, number: int) -> list[VideoEntry]:
        """The next videos; the first ones again after the last."""
        first, self.tried = self.tried, self.tried + number
        return [self.entries[place % len(self.entries)] for place in range(first, self.tried)]

    def note(self, entry: VideoEntry, failure: str | None) -> bool:
        """Note how a video came out; says whether it could be read.

        Raises:
            CannotProbeError: If no video can be read.
        """
        if failure is None:
            self.seen.add(entry.id)
            return True
        self.unreadable[entry.id] = failure
        if not self.seen and len(self.unreadable) >= min(len(self.entries), MOST_UNREADABLE):
            raise CannotProbeError(
                f"none of {len(self.unreadable)} videos can be read; the last one tried, "
                f"{entry.id}: {failure}"
            )
        return False


class Stopwatch(Teacher):
    """A teacher that notes when it was busy; waits for the device before it looks at the clock."""

    began: float | None = None
    """When the first answer since the last reset began."""
    seconds: float = 0.0
    clips: int = 0

    def waited(self, asked: float) -> float:
        """How long it took after a moment until the teacher had something to do."""
        return 0.0 if self.began is None else self.began - asked

    def predict(self, clips_BT3HW: torch.Tensor) -> TeacherOutput:
        start = time.perf_counter()
        self.began = start if self.began is None else self.began
        answer = super().predict(clips_BT3HW)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - start
        self.clips += len(clips_BT3HW)
        return answer


@dataclass(kw_only=True, slots=True)
class Meter:
    """Where the time of the calling thread goes, video by video."""

    total: float = 0.0
    waited: float = 0.0
    """Until a video was decoded."""
    videos: int = 0

    def add(self, seconds: float, waited: float) -> None:
        """Count one readable video."""
        self.total += seconds
        self.waited += waited
        self.videos += 1


def decoding(bench: Bench, request: Request, seconds: float) -> float:
    """Seconds from one video to the next where nothing but decoding happens."""
    entries = bench.take(request.threads * DECODED_PER_THREAD + 1)
    done, began, last = 0, 0.0, 0.0
    while True:
        for video in cut_videos(request, entries, range(len(entries))):
            last = time.perf_counter()
            if not bench.note(entries[video.place], video.failure):
                continue
            done += 1
            if done == 1:  # readers are loaded and all threads are at work
                began = last
            # Threads that began together end together: count whole rounds only.
            whole = done > 1 and (done - 1) % request.threads == 0
            if whole and (last - began > seconds or last > bench.deadline):
                return (last - began) / (done - 1)
        entries = bench.take(len(entries))


def bearable_views(bench: Bench, teacher: Stopwatch | None) -> int:
    """Views per video that the teacher can answer a few times before the deadline."""
    planned = len(bench.request.views)
    if teacher is None:
        return planned
    experiment, size = bench.request.experiment, bench.request.experiment.views.size
    clips = BATCH_GROUP if bench.grouped else 1
    blank = torch.zeros((clips, experiment.clip.num_frames, 3, size, size), dtype=torch.uint8)
    teacher.predict(blank)  # the first one also chooses kernels and takes memory
    before = teacher.seconds
    teacher.predict(blank)
    left = max(0.0, bench.deadline - time.perf_counter())
    return max(1, min(planned, int(left / 4 / (teacher.seconds - before))))


def pipeline(
    bench: Bench, teacher: Stopwatch | None, views: range
) -> tuple[Meter, list[dict[str, Row]]]:
    """Run stage one as it runs; its times once it has settled, and rows to write."""
    request = replace(bench.request, views=views)
    kept: list[dict[str, Row]] = []
    meter, done, settled = Meter(), 0, False
    with BackgroundWriter(bench.folder, bench.manifest) as writer:
        began = asked = time.perf_counter()
        stalled = 0.0
        for entry, answer, complete in _units(bench, request, teacher, writer):
            now, stall = time.perf_counter(), writer.stall_seconds - stalled
            if bench.note(entry, answer.failure):
                waited = now - asked if teacher is None else teacher.waited(asked)
                meter.add(now - asked - stall, max(0.0, waited - stall))
                kept = [*kept, answer.rows][-bench.manifest.layout.unit_videos :]
                done += 1
            spent = now - began
            if complete and meter.videos:
                if settled and (spent > bench.part_seconds or now > bench.deadline):
                    return meter, kept
                # The first videos find a queue that is empty, or full while the teacher warms up.
                if not settled and (done > request.threads + 1 or spent > bench.part_seconds / 2):
                    settled, began, meter = True, now, Meter()
                    if teacher is not None:
                        teacher.seconds, teacher.clips = 0.0, 0
            if teacher is not None:
                teacher.began = None
            asked, stalled = time.perf_counter(), writer.stall_seconds
    raise AssertionError("units never end")


def _units(
    bench: Bench, request: Request, teacher: Stopwatch | None, writer: BackgroundWriter
) -> Iterator[tuple[VideoEntry, VideoOutput, bool]]:
    """Fill and write one unit after the other, without end.

    Yields:
        A video, its answer, and whether the teacher has nothing begun (in mode batch it answers
        whole groups).
    """
    generation = bench.manifest.generations[0]
    while True:
        buffers, failed = UnitBuffers(bench.manifest, generation, 0), {}
        entries = bench.take(bench.manifest.layout.unit_videos)
        places = range(len(entries))
        answers = (
            run_in_groups(request, entries, teacher, places)
            if bench.grouped and teacher is not None
            else compute_outputs(request, entries, teacher)
        )
        for number, answer in enumerate(answers, start=1):
            if answer.failure is not None:
                failed[answer.place] = answer.failure
            buffers.put(answer.place, _for_all_views(answer.rows, len(generation.view_range)))
            complete = not bench.grouped or number % BATCH_GROUP == 0 or number == len(entries)
            yield entries[answer.place], answer, complete
        writer.submit(buffers, failed)


def _for_all_views(rows: Mapping[str, Row], views: int) -> dict[str, Row]:
    """Rows of some views, repeated until there are as many as planned."""
    return {
        name: row if len(row) == views else np.resize(row, (views, *row.shape[1:]))
        for name, row in rows.items()
    }


def writing(bench: Bench, kept: Sequence[dict[str, Row]]) -> tuple[float, dict[str, float]]:
    """Bytes per second of writing one unit over and over, and each array's share of its bytes."""
    generation, layout = bench.manifest.generations[0], bench.manifest.layout
    buffers = UnitBuffers(bench.manifest, generation, 0)
    for place in range(layout.unit_videos):
        rows = kept[place % len(kept)]
        buffers.put(place, _for_all_views(rows, len(generation.view_range)))
    written, began = 0, time.perf_counter()
    while True:
        commit = write_unit(bench.folder, bench.manifest, buffers, {})
        written += sum(stored.bytes for stored in commit.objects.values())
        now = time.perf_counter()
        if (
            written >= SUSTAINED_BYTES
            or now - began > bench.part_seconds / 2
            or now > bench.deadline
        ):
            break
    stored = {
        array.name: sum(commit.objects[key].bytes for key in buffers.objects[array.name])
        / layout.total_bytes(array)
        for array in bench.manifest.arrays
    }
    return written / (now - began), stored
