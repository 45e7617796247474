"""`reskd cache-teacher` and `reskd cache ...`."""

from pathlib import Path
from typing import Any, Literal

import click

from reskd.common.cli.options import (
    device_option,
    experiment_argument,
    json_option,
    override_option,
)
from reskd.common.errors import CacheError
from reskd.teacher_cache.options import (
    cache_argument,
    cache_path,
    draw_of,
    draw_options,
    engine_options,
    experiment_of,
    experiment_option,
    level_option,
    memory_option,
    options_of,
    planned,
    preprocess_option,
    run_options,
    slice_option,
    split_option,
    threads_option,
)


@click.command("cache-teacher")
@experiment_argument
@override_option
@click.option("--cache", "folder", type=cache_path, help="Folder of the cache.")
@split_option
@click.option("--plan", "plan_only", is_flag=True, help="Print counts and bytes; write nothing.")
@memory_option
@run_options
@preprocess_option
@slice_option
@engine_options
@json_option
def cache_teacher(
    experiment: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    split: str | None,
    plan_only: bool,
    memory: float,
    as_json: bool,
    **run: Any,
) -> None:
    """Run the teacher of EXPERIMENT once over every view of every training video; keep its outputs.

    Interrupted and called again, it goes on with the missing units. `reskd cache plan` tells the
    hours it will take. With --slice several runs, on several machines, fill one cache; with
    --engine ray one run has workers on all nodes of a cluster.
    """
    from reskd.common.console import emit, in_lines
    from reskd.teacher_cache.fill.engine import run_cache_teacher
    from reskd.teacher_cache.format.plan import plan_table

    resolved, _, plan = planned(experiment, overrides, split=split, memory=memory)
    if plan_only:
        hint = "`reskd cache plan` measures the hours, and the disk"
        emit(plan.as_dict(), as_json=as_json, text=in_lines(plan_table(plan), "", hint))
        return
    if folder is None:
        raise click.UsageError("Name the folder to write: --cache DIR (or ask for --plan alone).")
    folder = folder.absolute()
    result = run_cache_teacher(resolved, plan, folder, options_of(resolved, folder, **run))
    emit(result, as_json=as_json, text=_summary_text(result))


@click.group("cache")
def cache() -> None:
    """Look at caches, add to them, and prove that they are whole."""


@cache.command("plan")
@experiment_argument
@override_option
@click.option(
    "--cache", "folder", type=cache_path, help="Where the cache will be; its disk is measured."
)
@split_option
@memory_option
@click.option("--epochs", type=click.IntRange(1), help="Of a student; default: the experiment's.")
@click.option(
    "--students",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Students that will learn from the cache.",
)
@click.option(
    "--devices",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of each machine, like that of --device: a worker on each.",
)
@click.option(
    "--nodes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Machines like this one, each with a slice of the units.",
)
@click.option(
    "--network",
    metavar="GBPS",
    type=click.FloatRange(0, min_open=True),
    help="Gbit/s that each machine has, all at it, to where videos and cache lie.",
)
@click.option("--no-probe", is_flag=True, help="Counts and bytes only; measure nothing.")
@device_option
@threads_option
@preprocess_option
@json_option
def plan(
    experiment: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    split: str | None,
    memory: float,
    epochs: int | None,
    students: int,
    devices: int,
    nodes: int,
    network: float | None,
    no_probe: bool,
    device: str,
    threads: int,
    preprocess: Literal["cpu", "device"],
    as_json: bool,
) -> None:
    """Say what caching the teacher of EXPERIMENT will take: bytes, files, hours; and when it pays.

    Hours come from a probe of some seconds, which does the real work on a few videos and leaves
    nothing on the disk. Of a cache that is there already only what is missing counts. With
    --devices and --nodes the hours are those of so many workers as fast as the one that is probed.
    """
    from reskd.common.console import emit
    from reskd.common.devices import choose_device
    from reskd.teacher_cache.estimate.forecast import forecast_cache
    from reskd.teacher_cache.estimate.forecast_table import forecast_table

    forecast = forecast_cache(
        *planned(experiment, overrides, split=split, memory=memory),
        folder=None if folder is None else folder.absolute(),
        device=choose_device(device),
        threads=threads,
        preprocess=preprocess,
        nodes=nodes,
        devices=devices,
        network_bytes_per_second=None if network is None else network * 1e9 / 8,
        epochs=epochs,
        students=students,
        measure=not no_probe,
    )
    emit(forecast.as_dict(), as_json=as_json, text=forecast_table(forecast))


@cache.command("extend")
@cache_argument
@click.option("--videos", is_flag=True, help="Add the videos of the index that have no rows yet.")
@click.option("--views", type=click.IntRange(1, 10000), help="Views that every video shall have.")
@click.option("--targets", help="Targets to add: logits, features, logit_map, frames; with commas.")
@experiment_option
@override_option
@run_options
@json_option
def extend(
    folder: Path,
    videos: bool,
    views: int | None,
    targets: str | None,
    experiment: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **run: Any,
) -> None:
    """Add videos, views or targets to CACHE; what is in it stays as it is.

    Interrupted and called again, it goes on. Until it is done, readers see the cache as it was.
    """
    from reskd.common.console import emit
    from reskd.teacher_cache.fill.extend import extend_cache

    names = [name.strip() for name in (targets or "").split(",") if name.strip()]
    if views is None and not names and not videos:
        raise click.UsageError("Name what to add: --videos, --views N, --targets NAMES.")
    resolved = experiment_of(folder, experiment, overrides)
    options = options_of(resolved, folder.absolute(), **run)
    result = extend_cache(
        resolved, folder.absolute(), videos=videos, views=views, targets=names, options=options
    )
    emit(result, as_json=as_json, text=_summary_text(result))


@cache.command("verify")
@cache_argument
@level_option
@draw_options
@experiment_option
@override_option
@device_option
@threads_option
@json_option
def verify(
    folder: Path,
    level: str,
    experiment: str | None,
    overrides: tuple[str, ...],
    device: str,
    threads: int,
    as_json: bool,
    **draw: Any,
) -> None:
    """Check that CACHE is whole; exit code 4 on any finding.

    The options from --rows to --threads are those of level semantic.
    """
    from reskd.common.console import emit
    from reskd.common.devices import choose_device
    from reskd.teacher_cache.verify.report import remedy_text, report_text
    from reskd.teacher_cache.verify.verify import verify_cache

    if level == "semantic":
        from reskd.teacher_cache.verify.recompute import verify_semantic

        report = verify_semantic(
            experiment_of(folder, experiment, overrides),
            folder.absolute(),
            draw_of(**draw),
            device=choose_device(device),
            threads=threads,
        )
    elif overrides or any(value is not None for value in (draw["rows"], draw["seed"], experiment)):
        raise click.UsageError(
            "--rows, --seed, --experiment and -o choose the rows on which the teacher runs again: "
            "add --level semantic."
        )
    else:
        report = verify_cache(folder, "structure" if level == "structure" else "bytes")
    emit(report.as_dict(), as_json=as_json, text=report_text(report))
    if report.findings:
        again = (
            "" if report.semantic is None else f" --level semantic --seed {report.semantic.seed}"
        )
        raise CacheError(
            f"{report.cache} has {len(report.findings)} findings, listed above. "
            f"{remedy_text(report, f'reskd cache repair {folder}{again}')}"
        )


@cache.command("info")
@cache_argument
@click.option(
    "--index",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Video index with the labels; default: that of the recorded experiment.",
)
@json_option
def info(folder: Path, index: Path | None, as_json: bool) -> None:
    """Say what CACHE holds, whose outputs these are, and how good they are."""
    from reskd.common.console import emit
    from reskd.teacher_cache.card import info_text
    from reskd.teacher_cache.info import cache_info

    facts = cache_info(folder, index_path=index)
    emit(facts, as_json=as_json, text=info_text(facts))


@cache.command("repair")
@cache_argument
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Also try videos again that could not be read, and compute units anew of those that can.",
)
@level_option
@draw_options
@experiment_option
@override_option
@run_options
@json_option
def repair(
    folder: Path,
    level: str,
    experiment: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    rows: int | None,
    confidence: float,
    defect_rate: float,
    seed: int | None,
    retry_failed: bool,
    **run: Any,
) -> None:
    """Verify CACHE and compute the units with findings anew, no others.

    The options from --rows to --seed are those of level semantic.
    """
    from typing import cast

    from reskd.common.console import emit
    from reskd.teacher_cache.verify.repair import repair_cache
    from reskd.teacher_cache.verify.report import Level, report_text

    resolved = experiment_of(folder, experiment, overrides)
    facts, report = repair_cache(
        resolved,
        folder.absolute(),
        options_of(resolved, folder.absolute(), **run),
        level=cast("Level", level),
        draw=draw_of(rows=rows, confidence=confidence, defect_rate=defect_rate, seed=seed),
        retry_failed=retry_failed,
    )
    emit(facts, as_json=as_json, text=report_text(report))
    if report.findings:
        raise CacheError(
            f"{report.cache} still has {len(report.findings)} findings, listed above: no unit's "
            "recomputation fixes them. Remove files that do not belong to it; restore the others "
            "from a copy."
        )


def _summary_text(result: dict[str, Any]) -> str:
    missing = result["units_missing"]
    left = f"; {missing} units are left to other slices" if missing else ""
    return (
        f"{result['cache']}: {result['videos']} videos x {result['views']} views, "
        f"{result['bytes'] / 1e6:.1f} MB, {result['failed_videos']} videos unreadable{left}"
    )
