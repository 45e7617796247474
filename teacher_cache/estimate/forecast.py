"""`reskd cache plan`: what the cache will take here, and what it saves."""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from reskd.common.console import say
from reskd.common.dataset.frames.store import open_store
from reskd.common.dataset.index import VideoIndex
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint_record import CONFIG_FILE
from reskd.common.prefetch import num_cores
from reskd.teacher_cache.estimate.hours import (
    BreakEven,
    Checks,
    Hours,
    MeasuredSpeed,
    break_even,
    disk_bytes,
    predict_hours,
)
from reskd.teacher_cache.estimate.machines import Machines
from reskd.teacher_cache.estimate.measure_speed import measure_speed
from reskd.teacher_cache.estimate.probe import CannotMeasureError, Preprocess, existing_folder
from reskd.teacher_cache.fill.check_precision import num_clips
from reskd.teacher_cache.fill.engine import FREE_SPACE_FACTOR
from reskd.teacher_cache.format.plan import CachePlan
from reskd.teacher_cache.missing import less_what_is_there


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
    machines: Machines
    """Those that the hours are for."""
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
        machines: what the hours are for; all are taken to be like this one.
        hours: start, decode, teacher, write, processor, network (0: not counted); bound: the
        largest but for start; wall = start + that one.
        break_even: see `BreakEven`; ratio is online_hours over cached_hours, both on one device.
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
            "machines": asdict(self.machines),
            "probe": None if measured is None else asdict(measured),
            "no_probe_because": self.why_not,
            "hours": None
            if hours is None
            else {**asdict(hours), "bound": hours.bound, "wall": hours.wall},
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
    preprocess: Preprocess = "cpu",
    nodes: int = 1,
    devices: int = 1,
    network_bytes_per_second: float | None = None,
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
        preprocess: Who crops and resizes.
        nodes: Machines like this one that will fill the cache.
        devices: Of each of them.
        network_bytes_per_second: See `Machines`.
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
                preprocess=preprocess,
                seconds=seconds,
            )
        except CannotMeasureError as error:
            why_not = str(error)
    machines = Machines(
        nodes=nodes,
        devices=devices,
        threads=threads,
        teacher_threads=torch.get_num_threads() if device.type == "cpu" else None,
        cores=num_cores(),
        network_bytes_per_second=network_bytes_per_second,
    )
    hours = pays = None
    if measured is not None:
        checks = _checks(experiment, index, plan, device)
        hours = predict_hours(
            plan.work,
            measured,
            machines=machines,
            checks=Checks() if plan.exists else checks,
            video_bytes=_file_bytes(experiment, index, plan.split),
        )
        alone = replace(machines, nodes=1, devices=1, network_bytes_per_second=None)
        whole = predict_hours(plan.whole_work, measured, machines=alone, checks=checks)
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
        machines=machines,
        measured=measured,
        why_not=why_not,
        hours=hours,
        pays=pays,
    )


def _checks(
    experiment: Experiment, index: VideoIndex, plan: CachePlan, device: torch.device
) -> Checks:
    """What `check_accuracy` and `check_precision` will look at."""
    gate = 0
    if experiment.teacher.least_top1 is not None:
        validation = experiment.data.measured_split
        split = validation if validation in index.split_names() else plan.split
        gate = min(experiment.teacher.gate_videos, len(index.split(split)))
    compared = num_clips(experiment, len(index.split(plan.split)), plan.targets, device)
    return Checks(accuracy_clips=gate, precision_clips=compared)


def _file_bytes(experiment: Experiment, index: VideoIndex, split: str) -> float:
    """What a video takes that is read, on average, as far as the index or its frame store tells."""
    if experiment.data.frames is not None:
        files = open_store(experiment.data.frames).files
        return sum(file.stat().st_size for file in files) / len(index.videos)
    known = [video.content.bytes for video in index.split(split) if video.content is not None]
    return mean(known) if known else 0.0


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({os.cpu_count()} cores, {torch.get_num_threads()} threads of torch)"
