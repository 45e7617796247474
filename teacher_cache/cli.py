"""`reskd cache-teacher` and `reskd cache ...`."""

from pathlib import Path

import click

from common.cli_options import (
    device_option,
    experiment_argument,
    json_option,
    max_bad_option,
    override_option,
)
from common.errors import CacheError

cache_path = click.Path(path_type=Path, file_okay=False)


@click.command("cache-teacher")
@experiment_argument
@override_option
@click.option("--cache", "folder", type=cache_path, help="Folder of the cache.")
@click.option("--plan", "plan_only", is_flag=True, help="Print counts and bytes; write nothing.")
@click.option("--memory", default=2.0, show_default=True, help="GB a unit may take in memory.")
@max_bad_option
@click.option(
    "--threads", type=click.IntRange(1), default=2, show_default=True, help="Videos decoded ahead."
)
@device_option
@click.option("--force", is_flag=True, help="Start even if the disk looks too small.")
@json_option
def cache_teacher(
    experiment: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    plan_only: bool,
    memory: float,
    max_bad: float | None,
    threads: int,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Run the teacher of EXPERIMENT once over every view of every training video; keep its answers.

    Interrupted and called again, it goes on with the missing units.
    """
    from common.config import load_experiment
    from common.console import emit
    from common.devices import choose_device
    from common.video.index import read_index
    from teacher_cache.engine import RunOptions, run_cache_teacher
    from teacher_cache.plan import plan_cache, plan_table

    resolved = load_experiment(experiment, overrides)
    memory_bytes = int(memory * 1e9)
    plan = plan_cache(resolved, read_index(resolved.data.index), memory_bytes=memory_bytes)
    if plan_only:
        emit(plan.as_dict(), as_json=as_json, text=plan_table(plan))
        return
    if folder is None:
        raise click.UsageError("Name the folder to write: --cache DIR (or ask for --plan alone).")
    options = RunOptions(
        max_bad=resolved.data.max_bad if max_bad is None else max_bad,
        threads=threads,
        device=choose_device(device),
        force=force,
    )
    summary = run_cache_teacher(resolved, plan, folder.absolute(), options)
    emit(
        summary,
        as_json=as_json,
        text=f"{summary['cache']}: {summary['videos']} videos x {summary['views']} views, "
        f"{summary['bytes'] / 1e6:.1f} MB, {summary['failed_videos']} videos unreadable",
    )


@click.group("cache")
def cache() -> None:
    """Look at caches and prove that they are whole."""


@cache.command("verify")
@click.argument("folder", metavar="CACHE", type=cache_path)
@click.option(
    "--level",
    type=click.Choice(["structure", "bytes"]),
    default="bytes",
    show_default=True,
    help="structure: records, sizes, names; bytes: every byte too.",
)
@json_option
def verify(folder: Path, level: str, as_json: bool) -> None:
    """Check that CACHE is whole; exit code 4 on any finding."""
    from typing import cast

    from common.console import emit
    from teacher_cache.verify import Level, report_text, verify_cache

    report = verify_cache(folder, cast("Level", level))
    emit(report.as_dict(), as_json=as_json, text=report_text(report))
    if report.findings:
        raise CacheError(
            f"{report.cache} has {len(report.findings)} findings, listed above. Restore these "
            "files from a copy; or delete the commit records of the units concerned and run "
            "`reskd cache-teacher` again, which computes them anew."
        )
