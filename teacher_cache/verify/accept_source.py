"""Go on with a cache whose teacher's source has changed, where its outputs have not."""

from pathlib import Path
from secrets import randbelow
from typing import Final

from reskd.common.console import in_lines, say
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.fill.locks import sole_writer
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, read_manifest, write_manifest
from reskd.teacher_cache.format.sources import changed_sources, sources_of, with_sources
from reskd.teacher_cache.verify.recompute import Draw, verify_semantic

ACCEPTED_ROWS: Final = 32
"""Rows that the changed code must say again."""


def accept_source(experiment: Experiment, folder: Path, options: RunOptions) -> None:
    """Compare some rows with the teacher as it is now, and remember its source where they agree.

    Does nothing where there is no cache yet or no source has changed.

    Raises:
        CacheError: If rows differ, or there is none to compare; or if it is another experiment's
            cache.
        DataError: If the index or the teacher is missing or does not fit.
        StoppedShortError: If another process is writing the cache.
    """
    if not (folder / MANIFEST_FILE).exists():
        return
    with sole_writer(folder):
        manifest = read_manifest(folder)
        now = sources_of(experiment, num_classes=len(manifest.class_names))
        changed = changed_sources(manifest, now)
        if not changed:
            return
        draw = Draw(rows=ACCEPTED_ROWS, seed=randbelow(2**32))
        report = verify_semantic(
            experiment, folder, draw, device=options.device, threads=options.threads
        )
        # Units that are missing or damaged are not what is asked here, and were left out.
        differing = [finding for finding in report.findings if finding.view is not None]
        compared = 0 if report.semantic is None else report.semantic.rows
        names = " and ".join(changed)
        if differing:
            shown = (
                f"  {one.path}, view {one.view}, video {one.video}: {one.problem}"
                for one in differing[:5]
            )
            raise CacheError(
                in_lines(
                    f"The changed source of {names} does not say what {folder} holds: "
                    f"{len(differing)} findings on {compared} rows drawn with seed {draw.seed}:",
                    *shown,
                    "Change it back, or write another cache.",
                )
            )
        if not compared:
            raise CacheError(
                f"{folder} has no row yet with which the changed source of {names} could be "
                "compared. Remove the folder and begin again."
            )
        write_manifest(folder, with_sources(manifest, now))
    say(f"{folder}: {compared} rows are what the changed source of {names} says; going on with it")
