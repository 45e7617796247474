"""Prove that a cache is whole.

Level `structure` (seconds) checks records, hashes of metadata, presence and size of every object,
and that nothing else lies in the folder. Level `bytes` also reads every object: its sha256, its
index, and the checksum of every row.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.console import progress
from common.distill.arrays import ArraySpec
from common.errors import CacheError
from teacher_cache.commits import Commit, read_commit
from teacher_cache.layout import CRC_BYTES, commit_key, object_key
from teacher_cache.manifest import MANIFEST_FILE, Manifest, read_manifest
from teacher_cache.shard import crc32c, parse_index

Level = Literal["structure", "bytes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong."""

    path: str
    """File inside the cache."""
    problem: str
    """What is wrong with it."""
    array: str | None = None
    """Array concerned, if one is."""
    unit: int | None = None
    """Unit concerned, if one is."""
    view: int | None = None
    """View of the row concerned, if one is."""
    video: int | None = None
    """Video of the row concerned, if one is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a verification looked at and found."""

    cache: str
    """Absolute path."""
    level: Level
    """How deep it looked."""
    fingerprint: str | None
    """Digest of the cache's identity; None if cache.json is unreadable."""
    units: int
    """Units the cache should have."""
    bytes: int
    """Bytes of all objects that should be there."""
    failed_videos: int
    """Videos recorded as unreadable. They are not findings."""
    findings: tuple[Finding, ...]
    """Empty if the cache is whole."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ok": not self.findings}


def verify_cache(folder: Path, level: Level) -> Report:
    """Check a cache; what is wrong comes back as findings, not as exceptions.

    Raises:
        CacheError: If there is no cache at all in this place.
    """
    if not (folder / MANIFEST_FILE).exists():
        read_manifest(folder)  # explains what is missing
    try:
        manifest = read_manifest(folder)
    except CacheError as error:
        finding = Finding(path=MANIFEST_FILE, problem=str(error))
        return Report(
            cache=str(folder.absolute()),
            level=level,
            fingerprint=None,
            units=0,
            bytes=0,
            failed_videos=0,
            findings=(finding,),
        )
    commits: dict[int, Commit] = {}
    findings = [*_check_metadata(folder, manifest), *_check_commits(folder, manifest, commits)]
    findings += _check_strangers(folder, manifest, commits)
    with progress("verifying", manifest.layout.num_units, unit="units") as advance:
        for commit in commits.values():
            findings += _check_unit(folder, manifest, commit, level)
            advance()
    return Report(
        cache=str(folder.absolute()),
        level=level,
        fingerprint=manifest.fingerprint,
        units=manifest.layout.num_units,
        bytes=sum(manifest.layout.total_bytes(array) for array in manifest.arrays),
        failed_videos=sum(len(commit.failed) for commit in commits.values()),
        findings=tuple(findings),
    )


def _check_metadata(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    for name, expected in manifest.zarr_sha256.items():
        path = folder / name
        if not path.is_file():
            yield Finding(path=name, problem="is missing")
        elif (got := sha256(path.read_bytes()).hexdigest()) != expected:
            yield Finding(path=name, problem=f"has sha256 {got[:12]}…, not {expected[:12]}…")


def _check_commits(
    folder: Path, manifest: Manifest, commits: dict[int, Commit]
) -> Iterator[Finding]:
    """Read every commit record into `commits`; those that cannot be trusted are findings."""
    layout = manifest.layout
    for unit in range(layout.num_units):
        name = commit_key(unit)
        try:
            commit = read_commit(folder, unit)
        except CacheError as error:
            yield Finding(path=name, problem=str(error), unit=unit)
            continue
        if commit is None:
            yield Finding(path=name, problem="the unit was never finished", unit=unit)
            continue
        videos = layout.videos_of(unit)
        wanted = {object_key(array, unit) for array in manifest.arrays}
        if (
            commit.unit != unit
            or commit.videos != (videos.start, videos.stop)
            or commit.views != (0, layout.num_views)
            or set(commit.objects) != wanted
        ):
            yield Finding(path=name, problem="is the record of another unit or cache", unit=unit)
            continue
        commits[unit] = commit


def _check_strangers(
    folder: Path, manifest: Manifest, commits: dict[int, Commit]
) -> Iterator[Finding]:
    known = {MANIFEST_FILE, *manifest.zarr_sha256}
    known |= {commit_key(unit) for unit in range(manifest.layout.num_units)}
    known |= {
        object_key(array, unit)
        for unit in range(manifest.layout.num_units)
        for array in manifest.arrays
    }
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known:
            yield Finding(path=name, problem="does not belong to the cache")


def _check_unit(
    folder: Path, manifest: Manifest, commit: Commit, level: Level
) -> Iterator[Finding]:
    for array in manifest.arrays:
        name = object_key(array, commit.unit)
        path, expected = folder / name, manifest.layout.object_bytes(array, commit.unit)
        if not path.is_file():
            problem = "is missing"
        elif (size := path.stat().st_size) != expected or size != commit.objects[name].bytes:
            problem = f"has {size} bytes instead of {expected}"
        else:
            if level == "bytes":
                yield from _check_object(path, name, manifest, array, commit)
            continue
        yield Finding(path=name, problem=problem, array=array.name, unit=commit.unit)


def _check_object(
    path: Path, name: str, manifest: Manifest, array: ArraySpec, commit: Commit
) -> Iterator[Finding]:
    """Read one object; rows are only looked at if the whole is not what was committed."""
    layout, unit = manifest.layout, commit.unit
    data = path.read_bytes()
    if sha256(data).hexdigest() == commit.objects[name].sha256:
        return
    yield Finding(
        path=name, problem="does not have the committed sha256", array=array.name, unit=unit
    )
    try:
        index = parse_index(data[-layout.index_bytes() :], layout)
    except ValueError as error:
        yield Finding(path=name, problem=str(error), array=array.name, unit=unit)
        return
    for view in range(layout.num_views):
        for place, video in enumerate(layout.videos_of(unit)):
            offset, length = (int(number) for number in index[view, place])
            row = np.frombuffer(data, np.uint8)[offset : offset + length]
            stored = int.from_bytes(row[-CRC_BYTES:].tobytes(), "little")
            if (
                length != array.row_bytes + CRC_BYTES
                or crc32c(row[:-CRC_BYTES].tobytes()) != stored
            ):
                yield Finding(
                    path=name,
                    problem="the row does not have the checksum it was given",
                    array=array.name,
                    unit=unit,
                    view=view,
                    video=video,
                )


def report_text(report: Report) -> str:
    """The report for a person."""
    head = (
        f"{report.cache}: {report.units} units, {report.bytes / 1e6:.1f} MB, "
        f"{report.failed_videos} videos recorded as unreadable, level {report.level}"
    )
    if not report.findings:
        return f"{head}\nwhole: no findings"
    return "\n".join([head, *(f"  {_finding_text(finding)}" for finding in report.findings)])


def _finding_text(finding: Finding) -> str:
    row = "" if finding.view is None else f" (view {finding.view}, video {finding.video})"
    unit = "" if finding.unit is None else f"unit {finding.unit}: "
    return f"{unit}{finding.path}{row} {finding.problem}"
