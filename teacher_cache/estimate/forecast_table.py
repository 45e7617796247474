"""What `reskd cache plan` says, for a person."""

from collections.abc import Iterator

from reskd.common.console import counted, in_lines
from reskd.teacher_cache.estimate.forecast import Forecast
from reskd.teacher_cache.estimate.hours import BreakEven, Hours, MeasuredSpeed, disk_bytes
from reskd.teacher_cache.fill.engine import FREE_SPACE_FACTOR
from reskd.teacher_cache.format.plan import plan_table, shown_bytes

_TIME_UNITS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))


def forecast_table(forecast: Forecast) -> str:
    """The forecast for a person."""
    lines = [plan_table(forecast.plan)]
    measured, hours, pays = forecast.measured, forecast.hours, forecast.pays
    if measured is not None and forecast.plan.codec != "none":
        estimate = shown_bytes(disk_bytes(forecast.plan.work, measured))
        lines.append(f"about {estimate} after {forecast.plan.codec}, by the rows that were probed")
    lines += ["", *_disk_lines(forecast)]
    if measured is None or hours is None or pays is None:
        return in_lines(*lines, f"no hours: {forecast.why_not}")
    lines += [
        "",
        (
            f"on {forecast.device_name}, {forecast.threads} threads that decode; measured on "
            f"{measured.videos_probed} videos in {measured.seconds:.0f} s"
        ),
        *_machine_lines(forecast),
        *_hour_lines(forecast, measured, hours),
        *(f"passed over, unreadable: {name}: {why}" for name, why in measured.unreadable.items()),
        "",
        (
            f"{counted(pays.students, 'student')} of {pays.epochs} epochs on one device: "
            f"{shown_time(pays.online_hours)} with the teacher in every step, "
            f"{shown_time(pays.cached_hours)} with the cache"
        ),
        _pays_line(pays),
    ]
    return in_lines(*lines)


def _machine_lines(forecast: Forecast) -> Iterator[str]:
    machines, units = forecast.machines, forecast.plan.work.units
    if machines.workers == 1:
        return
    workers = f"{machines.workers} workers"
    if machines.nodes > 1:
        workers += f", {machines.devices} on each of {machines.nodes} machines like this one"
    yield f"hours of {workers}; together they write up to {_written_rate(forecast)}"
    most = round(units * machines.share_of_worker(units))
    if units and most * machines.workers > 1.25 * units:
        yield f"the busiest worker has {most} of {counted(units, 'unit')}: they do not divide well,"
        yield "and a smaller --memory makes more of them"


def _written_rate(forecast: Forecast) -> str:
    """What the place of the cache must take."""
    assert forecast.measured is not None
    assert forecast.hours is not None
    hours = max(forecast.hours.parts.values())
    written = disk_bytes(forecast.plan.work, forecast.measured)
    return f"{shown_bytes(written / hours / 3600 if hours else 0.0)}/s"


def _hour_lines(forecast: Forecast, measured: MeasuredSpeed, hours: Hours) -> Iterator[str]:
    """Each part, what it was measured by, and the whole."""
    machines = forecast.machines
    why = {
        "decode": f"{shown_time(measured.decode_seconds_per_video / 3600)} per video",
        "teacher": f"{shown_time(measured.teacher_seconds_per_clip / 3600)} per clip, encoded",
        "write": f"{shown_bytes(measured.write_bytes_per_second)}/s, hashed and synced",
        "processor": f"{shown_time(measured.processor_seconds_per_video / 3600)} per video, "
        f"{counted(machines.cores, 'core')}",
    }
    if machines.network_bytes_per_second is not None:
        why["network"] = f"{shown_bytes(machines.network_bytes_per_second)}/s of each machine"
    for name, reason in why.items():
        yield f"{name:<11}{shown_time(hours.parts[name]):>10}   {reason}"
    on_gpu = forecast.device.startswith("cuda")
    spent = hours.wall * (machines.workers if on_gpu else machines.nodes)
    yield (
        f"{'in all':<11}{shown_time(hours.wall):>10}   {shown_hours(spent)} "
        f"{'GPU' if on_gpu else 'CPU'}-hours: {hours.bound} bounds it, and "
        f"{shown_time(hours.start)} before and after"
    )


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


def _disk_lines(forecast: Forecast) -> list[str]:
    has = f"{forecast.disk} has {shown_bytes(forecast.free_bytes)} free"
    if forecast.fits:
        return [f"{has}: room enough"]
    need = f"{FREE_SPACE_FACTOR} times {shown_bytes(forecast.need_bytes)}"
    ways = "name another disk with --cache, store fewer targets or views, or features as int8."
    return [f"{has}, too little: {need} are asked for.", f"Make room, {ways}"]


def _pays_line(pays: BreakEven) -> str:
    if pays.pays_from_epoch is None:
        return "the cache never pays in time: students decode as long as the teacher takes"
    return (
        f"that is {pays.ratio:.1f} to 1; for one student the cache pays from epoch "
        f"{pays.pays_from_epoch} on"
    )
