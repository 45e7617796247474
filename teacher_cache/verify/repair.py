"""Compute anew what verification found wrong, and nothing else."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from reskd.common.console import say
from reskd.common.distill.teacher import Teacher
from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment
from reskd.common.signals import preemptible
from reskd.teacher_cache.fill.computed import computed_here, difference_of
from reskd.teacher_cache.fill.engine import fill
from reskd.teacher_cache.fill.job import RunOptions, job_on_cache, teacher_for
from reskd.teacher_cache.fill.locks import sole_writer
from reskd.teacher_cache.fill.writer import write_metadata
from reskd.teacher_cache.format.commits import Computed, read_commit
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import Generation, Manifest, read_manifest
from reskd.teacher_cache.format.sources import check_sources
from reskd.teacher_cache.verify.recompute import Draw, verify_semantic
from reskd.teacher_cache.verify.report import Level, Report
from reskd.teacher_cache.verify.retry import readable_after_all
from reskd.teacher_cache.verify.verify import verify_cache


def repair_cache(
    experiment: Experiment,
    folder: Path,
    options: RunOptions,
    *,
    level: Level = "bytes",
    draw: Draw | None = None,
    retry_failed: bool = False,
) -> tuple[dict[str, Any], Report]:
    """Verify, recompute the units with findings, verify again.

    A unit's record is removed before its objects are replaced, so a repair that is stopped leaves
    units missing, never wrong, and the same command goes on. On one machine the result is equal,
    byte for byte, to what was there before the damage. Files that do not belong to the cache are
    named and left alone.

    Args:
        experiment: The one the cache was written for.
        folder: The cache.
        options: How to run.
        level: How deep to look, before and after.
        draw: Rows that level semantic compares.
        retry_failed: Also ask videos again that could not be read, and compute the units anew of
            those that can be.

    Returns:
        Facts for JSON, and the report after the repair.

    Raises:
        CacheError: If cache.json itself is damaged, or this is another experiment's cache.
        DataError: If the index or the teacher is missing or does not fit.
    """

    def verify() -> Report:
        if level != "semantic":
            return verify_cache(folder, level)
        assert draw is not None, "level semantic compares some rows"
        return verify_semantic(
            experiment, folder, draw, device=options.device, threads=options.threads
        )

    recomputed: list[dict[str, int]] = []
    read_manifest(folder)  # explains what is missing
    with sole_writer(folder), preemptible():
        # Read once no other process can write it any more.
        job, manifest, model = job_on_cache(experiment, folder, options)
        check_sources(folder, manifest, experiment)
        before = verify()
        if any(finding.path in manifest.zarr_sha256 for finding in before.findings):
            manifest = write_metadata(folder, manifest)
        again_readable = readable_after_all(job, folder, manifest) if retry_failed else set()
        due = {manifest.layout.locate(video)[0] for video in again_readable}
        teacher = teacher_for(experiment, model, manifest, options.device)
        for generation in manifest.generations:
            found = {
                finding.unit
                for finding in before.findings
                if finding.unit is not None and finding.generation == generation.number
            }
            units = sorted(found | due.intersection(manifest.units_of(generation)))
            again = _how_computed(folder, manifest, generation, units)
            _say_where_else(again, teacher)
            for unit in units:
                say(f"recomputing unit {unit} of run {generation.number}")
                (folder / commit_key(generation.number, unit)).unlink(missing_ok=True)
                recomputed.append({"generation": generation.number, "unit": unit})
            fill(job, manifest, generation, units, teacher, again=again)
        after = verify()
    facts = {
        "cache": str(folder),
        "findings_before": len(before.findings),
        "recomputed": recomputed,
        "readable_again": sorted(job.entries[video].id for video in again_readable),
        "findings_after": len(after.findings),
        "ok": not after.findings,
    }
    return facts, after


def _how_computed(
    folder: Path, manifest: Manifest, generation: Generation, units: Sequence[int]
) -> dict[int, Computed | None]:
    """How units were computed: by their records, or by the nearest sound one.

    Units for which there is none are left out.
    """
    known: dict[int, Computed | None] = {}
    for unit in manifest.units_of(generation):
        with suppress(CacheError):
            commit = read_commit(folder, generation.number, unit)
            if commit is not None:
                known[unit] = commit.computed
    if not known:
        return {}
    return {unit: known[min(known, key=lambda other: abs(other - unit))] for unit in units}


def _say_where_else(again: Mapping[int, Computed | None], teacher: Teacher) -> None:
    """Say of which units the bytes may differ from what they were."""
    here = computed_here(teacher, 0)
    for unit, computed in again.items():
        problem = None if computed is None else difference_of(computed, here)
        if problem is not None:
            say(f"unit {unit} was computed with {problem}: its last bits may change")
