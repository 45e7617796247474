"""From measured speeds to hours, and to the epoch from which a cache pays: arithmetic."""

from dataclasses import dataclass
from math import ceil

from reskd.teacher_cache.estimate.machines import Machines
from reskd.teacher_cache.format.plan import Work


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSpeed:
    """What was measured on this machine, see measure_speed.py."""

    start_seconds: float
    """Once per run: loading the teacher, hashing the index, making an empty cache."""
    decode_seconds_per_video: float
    """Decode a video and cut all its views; the time between two videos, however many threads."""
    teacher_seconds_per_clip: float
    """Teacher, encoding and checksums, in the running pipeline."""
    forward_seconds_per_clip: float
    """Of these the teacher's alone: what it would cost beside a student."""
    view_seconds: float
    """Decode a video for one view only; the time between two videos."""
    write_bytes_per_second: float
    """Hashed, written and synced."""
    processor_seconds_per_video: float
    """Of all cores, for all of that."""
    stored_fraction: dict[str, float]
    """By array: bytes on disk over planned bytes; 1 without a codec."""
    videos_probed: int
    """Different videos that were decoded."""
    views_probed: int
    """Views per video shown to the teacher; less than planned where it is very slow."""
    unreadable: dict[str, str]
    """Videos that were passed over, by id, with the reason."""
    seconds: float
    """Time the measurement took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """How long stage one takes; its parts run side by side.

    Decoding and teacher are those of the busiest worker, the others of the busiest machine.
    """

    start: float
    """Before the first video (the checks of the teacher included) and, since the last unit is
    written beside nothing, after the last one."""
    decode: float
    teacher: float
    write: float
    """Hashing, the disk. What one worker reaches counts for all of a machine, which share it."""
    processor: float
    """All that the cores of a machine do, for all its workers."""
    network: float
    """Videos read and the cache written; 0 if it is not to be counted."""

    @property
    def parts(self) -> dict[str, float]:
        """What runs side by side, by name."""
        names = ("decode", "teacher", "write", "processor", "network")
        return {name: getattr(self, name) for name in names}

    @property
    def bound(self) -> str:
        """The slowest part."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def wall(self) -> float:
        """The slowest part, and what is before and after it."""
        return self.start + max(self.parts.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """What is done before an empty cache is filled, in clips, one of each video."""

    accuracy_clips: int = 0
    """That teacher.least_top1 is compared with."""
    precision_clips: int = 0
    """Shown to the teacher in its precision and in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakEven:
    """A cache against a teacher that runs in every step of every epoch of every student."""

    epochs: int
    students: int
    online_hours: float
    """Teacher beside the students, and the decoding it needs; without the students' own work."""
    cached_hours: float
    """Making the cache, and the decoding students still do where it holds no frames."""
    pays_from_epoch: int | None
    """Epochs of one student from which the cache costs no more; None if there are none."""

    @property
    def ratio(self) -> float:
        """How many times the cache's hours online distillation takes."""
        return self.online_hours / self.cached_hours


def predict_hours(
    work: Work,
    measured: MeasuredSpeed,
    *,
    machines: Machines,
    checks: Checks,
    video_bytes: float = 0.0,
) -> Hours:
    """Hours of some work at the speeds that one worker was measured to have.

    Args:
        work: What is to be done.
        measured: On this machine.
        machines: Those that will do it.
        checks: Before the first video; one machine does them, the others wait.
        video_bytes: Of a file that is decoded, as far as it crosses the network.
    """
    written = disk_bytes(work, measured)
    worker, machine = machines.share_of_worker(work.units), machines.share_of_machine(work.units)
    starts = 1 if machines.devices == 1 else 2  # the driver, then its workers
    last_unit = written / measured.write_bytes_per_second / work.units if work.units else 0.0
    crossing, reach = written + work.videos * video_bytes, machines.network_bytes_per_second
    decode = work.videos * measured.decode_seconds_per_video * machines.decode_slowdown
    teacher = work.clips * measured.teacher_seconds_per_clip * machines.teacher_slowdown
    processor = work.videos * measured.processor_seconds_per_video / machines.cores
    return Hours(
        start=(starts * measured.start_seconds + _check_seconds(checks, measured) + last_unit)
        / 3600,
        decode=worker * decode / 3600,
        teacher=worker * teacher / 3600,
        write=machine * written / measured.write_bytes_per_second / 3600,
        processor=machine * processor / 3600,
        network=0.0 if reach is None else machine * crossing / reach / 3600,
    )


def _check_seconds(checks: Checks, measured: MeasuredSpeed) -> float:
    """Float32 counts as another precision does: on a GPU it takes longer, of some clips seconds."""
    accuracy = max(measured.view_seconds, measured.forward_seconds_per_clip)
    precision = max(measured.view_seconds, 2 * measured.forward_seconds_per_clip)
    return checks.accuracy_clips * accuracy + checks.precision_clips * precision


def disk_bytes(work: Work, measured: MeasuredSpeed) -> int:
    """Bytes on the disk: exact without a codec, else estimated from the rows that were written."""
    return round(
        sum(
            size * measured.stored_fraction.get(name, 1.0)
            for name, size in work.bytes_by_array.items()
        )
    )


def break_even(
    *,
    epochs: int,
    students: int,
    videos: int,
    online_seconds: float,
    cache_seconds: float,
    epoch_seconds: float = 0.0,
) -> BreakEven:
    """Compare a cache with online distillation; what the students themselves cost is left out.

    Args:
        epochs: Of each student.
        students: How many learn from the same teacher.
        videos: N; an epoch shows one view of each.
        online_seconds: Per video and epoch without a cache: decode one view, run the teacher.
        cache_seconds: Making the cache, once.
        epoch_seconds: Per video and epoch with the cache: decode one view; 0 with stored frames.
    """
    passes = students * epochs * videos
    saved = videos * (online_seconds - epoch_seconds)
    return BreakEven(
        epochs=epochs,
        students=students,
        online_hours=passes * online_seconds / 3600,
        cached_hours=(cache_seconds + passes * epoch_seconds) / 3600,
        pays_from_epoch=max(1, ceil(cache_seconds / saved)) if saved > 0 else None,
    )
