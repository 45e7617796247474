"""`reskd cache plan`: what the cache will take here, and what it saves."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reskd.common.console import say
from reskd.common.dataset.index import VideoIndex
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import CONFIG_FILE
from reskd.teacher_cache.estimate.hours import (
    BreakEven,
    Hours,
    MeasuredSpeed,
    break_even,
    disk_bytes,
    predict_hours,
)
from reskd.teacher_cache.estimate.measure_speed import measure_speed
from reskd.teacher_cache.estimate.probe import CannotMeasureError, existing_folder
from reskd.teacher_cache.fill.engine import FREE_SPACE_FACTOR
from reskd.teacher_cache.format.plan import CachePlan, plan_table, shown_bytes
from reskd.teacher_cache.missing import less_what_is_there

_TIME_UNITS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """All that `reskd cache plan` says."""

    plan: CachePlan
    disk: Path
    """Existing folder on the disk that the cache is meant for."""
    free_bytes: int
    device: str
    """As torch names it."""
    device_name: str
    """For a person."""
    threads: int
    """Threads that decode."""
    measured: MeasuredSpeed | None
    """None if nothing was measured."""
    why_not: str | None
    """Reason if nothing was measured."""
    hours: Hours | None
    """Of what is still to be done."""
    pays: BreakEven | None
    """Of the whole cache, what exists of it included."""

    @property
    def need_bytes(self) -> int:
        """Bytes that `cache-teacher` counts on, rows not compressed."""
        return sum(self.plan.bytes_by_array.values())

    @property
    def fits(self) -> bool:
        """Whether `cache-teacher` would start."""
        return self.free_bytes >= FREE_SPACE_FACTOR * self.need_bytes

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the keys of `CachePlan.as_dict` and those of this forecast.

        disk_bytes: bytes after the codec, estimated; of the codec `none` the exact bytes.
        disk, free_bytes, fits: the disk, what is free there, whether 1.2 times the bytes are.
        device, device_name, threads: what was measured on.
        probe: what was measured (`MeasuredSpeed`), in seconds and bytes; null if nothing was.
        no_probe_because: the reason then.
        hours: start, decode, teacher, write; wall = start + the largest of the other three.
        break_even: see `BreakEven`; ratio is online_hours over cached_hours.
        """
        measured, hours, pays = self.measured, self.hours, self.pays
        return {
            **self.plan.as_dict(),
            "disk_bytes": None if measured is None else disk_bytes(self.plan.work, measured),
            "disk": str(self.disk),
            "free_bytes": self.free_bytes,
            "fits": self.fits,
            "device": self.device,
            "device_name": self.device_name,
            "threads": self.threads,
            "probe": None if measured is None else asdict(measured),
            "no_probe_because": self.why_not,
            "hours": None if hours is None else {**asdict(hours), "wall": hours.wall},
            "break_even": None if pays is None else {**asdict(pays), "ratio": pays.ratio},
        }


def forecast_cache(
    experiment: Experiment,
    index: VideoIndex,
    plan: CachePlan,
    *,
    folder: Path | None,
    device: torch.device,
    threads: int,
    epochs: int | None = None,
    students: int = 1,
    measure: bool = True,
    seconds: float = 10.0,
) -> Forecast:
    """Predict what `cache-teacher` will cost here; leaves nothing on the disk.

    Args:
        experiment: Resolved experiment.
        index: Its video index.
        plan: Its cache.
        folder: Where the cache will be, or is already: then only what is missing counts. None
            measures the disk of the current folder.
        device: Where the teacher will run.
        threads: Threads that decode.
        epochs: Of a student, for the comparison; None takes the experiment's.
        students: How many will learn from the cache.
        measure: Whether to measure speeds.
        seconds: For how long, see `measure_speed`.

    Raises:
        CacheError: If the folder holds something that `cache-teacher` would refuse.
        DataError: If the teacher's checkpoint does not fit, or the index has no such split.
    """
    has_teacher = (experiment.teacher.checkpoint / CONFIG_FILE).exists()
    if folder is not None:
        plan = less_what_is_there(experiment, index, plan, folder)
    disk = existing_folder(folder)
    measured, why_not = None, None
    if not measure:
        why_not = "--no-probe was given"
    elif not has_teacher:
        why_not = (
            f"there is no teacher in {experiment.teacher.checkpoint}; `reskd train-teacher` or "
            "`import-checkpoint` puts one there"
        )
    else:
        say(f"measuring on some videos for about {seconds:.0f} s")
        try:
            measured = measure_speed(
                experiment,
                index,
                plan,
                parent=disk,
                device=device,
                threads=threads,
                seconds=seconds,
            )
        except CannotMeasureError as error:
            why_not = str(error)
    hours = pays = None
    if measured is not None:
        new = not plan.exists
        gate = _gate_videos(experiment, index, plan)
        hours = predict_hours(plan.work, measured, gate_videos=gate if new else 0)
        whole = predict_hours(plan.whole_work, measured, gate_videos=gate)
        frames_stored = any(array.name == "frames" for array in plan.targets.arrays)
        pays = break_even(
            epochs=epochs or experiment.required_student().training.epochs,
            students=students,
            videos=plan.layout.num_videos,
            online_seconds=max(measured.view_seconds, measured.forward_seconds_per_clip),
            cache_seconds=whole.wall * 3600,
            epoch_seconds=0.0 if frames_stored else measured.view_seconds,
        )
    return Forecast(
        plan=plan,
        disk=disk,
        free_bytes=shutil.disk_usage(disk).free,
        device=str(device),
        device_name=_device_name(device),
        threads=threads,
        measured=measured,
        why_not=why_not,
        hours=hours,
        pays=pays,
    )


def forecast_table(forecast: Forecast) -> str:
    """The forecast for a person."""
    lines = [plan_table(forecast.plan)]
    measured, hours, pays = forecast.measured, forecast.hours, forecast.pays
    if measured is not None and forecast.plan.codec != "none":
        estimate = shown_bytes(disk_bytes(forecast.plan.work, measured))
        lines.append(f"about {estimate} after {forecast.plan.codec}, by the rows that were probed")
    lines += ["", _disk_line(forecast)]
    if measured is None or hours is None or pays is None:
        return "\n".join([*lines, f"no hours: {forecast.why_not}"])
    kind = "GPU" if forecast.device.startswith("cuda") else "CPU"
    lines += [
        "",
        (
            f"on {forecast.device_name}, {forecast.threads} threads that decode; measured on "
            f"{measured.videos_probed} videos in {measured.seconds:.0f} s"
        ),
        (
            f"{'decode':<11}{shown_time(hours.decode):>10}   "
            f"{shown_time(measured.decode_seconds_per_video / 3600)} per video"
        ),
        (
            f"{'teacher':<11}{shown_time(hours.teacher):>10}   "
            f"{shown_time(measured.teacher_seconds_per_clip / 3600)} per clip, encoded"
        ),
        (
            f"{'write':<11}{shown_time(hours.write):>10}   "
            f"{shown_bytes(measured.write_bytes_per_second)}/s, hashed and synced"
        ),
        (
            f"{'in all':<11}{shown_time(hours.wall):>10}   {shown_hours(hours.wall)} "
            f"{kind}-hours: the slowest of the three and {shown_time(hours.start)} before and after"
        ),
        *(f"passed over, unreadable: {name}: {why}" for name, why in measured.unreadable.items()),
        "",
        (
            f"{pays.students} student{'s' * (pays.students > 1)} of {pays.epochs} epochs: "
            f"{shown_time(pays.online_hours)} with the teacher in every step, "
            f"{shown_time(pays.cached_hours)} with the cache"
        ),
        _pays_line(pays),
    ]
    return "\n".join(lines)


def shown_hours(hours: float) -> str:
    """Hours of a machine; never so short that they read as nothing."""
    return f"{hours:.2f}" if hours >= 0.01 else "under 0.01"


def shown_time(hours: float) -> str:
    """Hours for a person."""
    seconds = hours * 3600
    for size, unit in _TIME_UNITS:
        if seconds >= (2 * size if size > 3600 else size):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1000:.1f} ms"


def _disk_line(forecast: Forecast) -> str:
    has = f"{forecast.disk} has {shown_bytes(forecast.free_bytes)} free"
    if forecast.fits:
        return f"{has}: room enough"
    return (
        f"{has}, too little: {FREE_SPACE_FACTOR} times {shown_bytes(forecast.need_bytes)} are "
        "asked for.\nMake room, name another disk with --cache, store fewer targets or views, or "
        "features as int8."
    )


def _pays_line(pays: BreakEven) -> str:
    if pays.pays_from_epoch is None:
        return "the cache never pays in time: students decode as long as the teacher takes"
    return (
        f"that is {pays.ratio:.1f} to 1; for one student the cache pays from epoch "
        f"{pays.pays_from_epoch} on"
    )


def _gate_videos(experiment: Experiment, index: VideoIndex, plan: CachePlan) -> int:
    """Videos that `check_accuracy` will look at."""
    if experiment.teacher.least_top1 is None:
        return 0
    validation = experiment.data.measured_split
    split = validation if validation in index.split_names() else plan.split
    return min(experiment.teacher.gate_videos, len(index.split(split)))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({os.cpu_count()} cores, {torch.get_num_threads()} threads of torch)"
