"""What stage one consists of, each part alone: how fast it could go if nothing else held it up.

Every part does its real work, through the functions that fill a cache, on the same few videos again
and again, until its time is up; the first round warms up and does not count. Parts of one *lane*
share what they run on and cannot overlap with each other; lanes can.

| part | what | lane |
|---|---|---|
| decode | frames of all views of a video, each once, to their short side | workers |
| preprocess | crops, the teacher's size, the student's | workers, or device |
| host-to-device | clips from pinned memory | copy in |
| teacher | its forward pass over clips that are there | device |
| encode | outputs to stored numbers | device |
| device-to-host | stored numbers to pinned memory | copy out |
| checksum | rows into the unit, a crc32c each | finisher |
| write | sha256, files, fsync, the record | writer |

On a CPU there are no copies, and all lanes share the cores.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from reskd.common.dataset.index import VideoEntry
from reskd.common.dataset.open import open_entry
from reskd.common.distill.arrays import Row, TargetPlan
from reskd.common.distill.device_encoding import encode_on_device
from reskd.common.distill.encoding import to_rows
from reskd.common.distill.targets import FROM_VIDEO_ALONE
from reskd.common.distill.teacher import Teacher
from reskd.common.torch_threads import pool_of_single_threads
from reskd.common.video.clips import UnionFrames, cut_union, read_union
from reskd.common.video.integer_resize import resize_in_integers
from reskd.common.video.preprocess import Resize, resize_bilinear, shrink
from reskd.common.video.reader import UnreadableVideoError, VideoReader
from reskd.common.video.views import ViewParams, draw_view
from reskd.teacher_cache.estimate.probe import CannotMeasureError, Probe
from reskd.teacher_cache.fill.cut import MOST_THREADS
from reskd.teacher_cache.fill.pipeline.lanes import Lanes, Slot
from reskd.teacher_cache.fill.writer import UnitBuffers, write_unit
from reskd.teacher_cache.format.layout import commit_key

LANES: Final = {
    "decode": "workers",
    "preprocess": "workers",
    "host-to-device": "copy in",
    "teacher": "device",
    "encode": "device",
    "device-to-host": "copy out",
    "checksum": "finisher",
    "write": "writer",
}
QUEUED_ROUNDS: Final = 4
"""Rounds that may wait on a device: enough to hide what starting them takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePart:
    """One part, alone."""

    name: str
    lane: str
    seconds_per_clip: float
    """By the clock, with all the threads that it has."""
    cpu_seconds_per_clip: float
    """Of this process."""


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A video of the sample."""

    entry: VideoEntry
    views: Sequence[ViewParams]
    union: UnionFrames


def measure_parts(probe: Probe, *, batch: int, seconds: float) -> Iterator[StagePart]:
    """Measure every part that this experiment and this device have.

    Args:
        probe: Teacher, videos, a folder to write to.
        batch: Clips that the teacher sees at once.
        seconds: For all parts together.

    Raises:
        CannotMeasureError: If none of the first videos can be read.
        OSError: If the disk is full.
    """
    teacher, size = probe.teacher, probe.job.experiment.views.size
    sample = _sample(probe, videos=max(probe.job.options.threads, batch // probe.planned_views, 2))
    clock = _Clock(teacher.device, seconds / len(LANES))
    yield from _workers(probe, sample, clock)
    cut = torch.cat([cut_union(video.union, video.views, size=size) for video in sample])
    clips = cut[torch.arange(batch) % len(cut)].contiguous()
    targets = replace(probe.plan.targets, arrays=tuple(probe.arrays))
    rows: dict[str, Row] = {}
    if not {array.name for array in targets.arrays} <= FROM_VIDEO_ALONE:
        rows = yield from _device(teacher, targets, clips, clock)
    if "frames" in {array.name for array in targets.arrays}:
        rows["frames"] = shrink(clips, targets.student_size).numpy()
    yield from _store(probe, rows, clock)


def _device(
    teacher: Teacher, targets: TargetPlan, clips: Tensor, clock: "_Clock"
) -> Generator[StagePart, None, dict[str, Row]]:
    """Clips to the device, what happens to them there, and what comes back."""
    lanes, slot, batch = Lanes(teacher.device), Slot(), len(clips)
    on_cuda = teacher.device.type == "cuda"
    if on_cuda:
        clips = clips.pin_memory()
        yield clock.part("host-to-device", lambda: lanes.send(clips), batch)
    there = lanes.send(clips)
    yield clock.part("teacher", lambda: teacher.predict(there), batch)
    output = teacher.predict(there)
    yield clock.part("encode", lambda: encode_on_device(targets, output), batch)
    encoded = encode_on_device(targets, output)
    if on_cuda:
        yield clock.part(
            "device-to-host", lambda: lanes.download(slot, encoded.arrays).wait(), batch
        )
    arrays = lanes.download(slot, encoded.arrays).wait()
    return to_rows(arrays, encoded.reach.cpu(), encoded.checks)


def _sample(probe: Probe, *, videos: int) -> list[_Sampled]:
    """The first videos that can be read, with their frames."""
    job, sample = probe.job, list[_Sampled]()
    reason = ""
    for entry in list(job.entries.values())[: 2 * videos]:
        try:
            with open_entry(job.index, entry, job.experiment.data) as video:
                views = _views(probe, entry, video)
                sample.append(_Sampled(entry, views, read_union(video, views)))
        except UnreadableVideoError as error:
            reason = str(error)
        if len(sample) == videos:
            break
    if not sample:
        raise CannotMeasureError(f"none of the first videos can be read; the last one: {reason}")
    return sample


def _views(probe: Probe, entry: VideoEntry, video: VideoReader) -> list[ViewParams]:
    experiment = probe.job.experiment
    return [
        draw_view(
            clip=experiment.clip,
            views=experiment.views,
            video_id=entry.id,
            view=view,
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
        )
        for view in range(probe.planned_views)
    ]


def _workers(probe: Probe, sample: Sequence[_Sampled], clock: "_Clock") -> Iterator[StagePart]:
    """Decoding and cutting, all workers at once; or cutting on the device."""
    job, experiment, device = probe.job, probe.job.experiment, probe.teacher.device
    student_size = probe.plan.targets.student_size
    keeps_frames = any(array.name == "frames" for array in probe.arrays)

    def decode(video: _Sampled) -> None:
        wanted = experiment.views.count * experiment.clip.num_frames
        with open_entry(job.index, video.entry, experiment.data, num_wanted=wanted) as reader:
            read_union(reader, video.views)

    def preprocess(video: _Sampled, resize: Resize = resize_bilinear) -> Tensor:
        clips = cut_union(video.union, video.views, size=experiment.views.size, resize=resize)
        return shrink(clips, student_size) if keeps_frames else clips

    clips, workers = len(sample) * probe.planned_views, job.options.threads
    # Processes do not hinder each other: as fast as one of them, times their number.
    alone = workers if workers > MOST_THREADS else 1
    with pool_of_single_threads(workers // alone) as pool:
        work: Sequence[Callable[[_Sampled], object]] = (
            (decode, preprocess) if job.options.preprocess == "cpu" else (decode,)
        )
        for one in work:
            part = clock.part(one.__name__, lambda: list(pool.map(one, sample)), clips)  # noqa: B023
            yield replace(part, seconds_per_clip=part.seconds_per_clip / alone)
    if job.options.preprocess == "cpu":
        return
    there = [replace(video, union=video.union.to(device)) for video in sample]
    yield clock.part(
        "preprocess",
        lambda: [preprocess(video, resize_in_integers) for video in there],
        clips,
        lane="device",
    )


def _store(probe: Probe, rows: Mapping[str, Row], clock: "_Clock") -> Iterator[StagePart]:
    """What happens to rows: (B, *row_shape) by array, clip by clip as they come."""
    views = probe.planned_views
    manifest = probe.make_cache(probe.arrays, views, probe.plan.layout.unit_videos)
    buffers = UnitBuffers(manifest, manifest.generations[0], 0)
    videos = len(manifest.layout.videos_of(0))
    whole = dict(rows)
    for array in probe.arrays:
        whole.setdefault(array.name, np.zeros((1, *array.row_shape), array.dtype))

    def put() -> None:
        for clip in range(videos * views):
            own = {
                name: array[clip % len(array) : clip % len(array) + 1]
                for name, array in whole.items()
            }
            buffers.put(clip // views, own, clip % views)

    yield clock.part("checksum", put, videos * views)
    folder = probe.job.folder

    def write() -> None:
        # A unit that is there would stay.
        (folder / commit_key(buffers.generation.number, buffers.unit)).unlink(missing_ok=True)
        write_unit(folder, manifest, buffers, {})

    yield clock.part("write", write, videos * views)


class _Clock:
    """Times parts, each for some seconds."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device, self._seconds = device, seconds

    def part(
        self, name: str, work: Callable[[], object], clips: int, *, lane: str | None = None
    ) -> StagePart:
        """Repeat some work on so many clips."""
        work()
        self._wait()
        rounds, start, cpu = 0, time.perf_counter(), time.process_time()
        while not rounds or time.perf_counter() - start < self._seconds:
            work()
            rounds += 1
            if rounds % QUEUED_ROUNDS == 0:
                self._wait()
        self._wait()
        seconds = time.perf_counter() - start
        done = rounds * clips
        return StagePart(
            name=name,
            lane=lane or LANES[name],
            seconds_per_clip=seconds / done,
            cpu_seconds_per_clip=(time.process_time() - cpu) / done,
        )

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
