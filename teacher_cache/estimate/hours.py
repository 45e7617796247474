"""From measured speeds to hours, and to the epoch from which a cache pays: arithmetic."""

from dataclasses import dataclass
from math import ceil

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
    """How long stage one takes on one device; decoding, teacher and writing run side by side."""

    start: float
    """Before the first video (the accuracy check of teacher.least_top1 included) and, since the
    last unit is written beside nothing, after the last one."""
    decode: float
    teacher: float
    write: float

    @property
    def wall(self) -> float:
        """The slowest of the three, and what is before and after it."""
        return self.start + max(self.decode, self.teacher, self.write)


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


def predict_hours(work: Work, measured: MeasuredSpeed, *, gate_videos: int = 0) -> Hours:
    """Hours of some work at the speeds that were measured.

    Args:
        work: What is to be done.
        measured: On this machine.
        gate_videos: Videos on which the teacher's accuracy is checked first, one view of each.
    """
    per_check = max(measured.view_seconds, measured.forward_seconds_per_clip)
    write = disk_bytes(work, measured) / measured.write_bytes_per_second
    last_unit = write / work.units if work.units else 0.0
    return Hours(
        start=(measured.start_seconds + gate_videos * per_check + last_unit) / 3600,
        decode=work.videos * measured.decode_seconds_per_video / 3600,
        teacher=work.clips * measured.teacher_seconds_per_clip / 3600,
        write=write / 3600,
    )


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
