"""Prove that a cache is whole.

Level `structure` (seconds) checks records, hashes of metadata, presence and size of every object,
and that nothing else lies in the folder. Level `bytes` also reads every object: its sha256, its
index, and the checksum of every row. Level `semantic` is in semantic.py: it needs the teacher.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reskd.common.console import progress
from reskd.common.distill.arrays import ArraySpec
from reskd.common.errors import CacheError
from reskd.common.video.views import FAILED
from reskd.teacher_cache.format.commits import Commit, expected_keys, failures, read_commit
from reskd.teacher_cache.format.layout import CRC_BYTES, commit_key
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, Generation, Manifest, read_manifest
from reskd.teacher_cache.format.shard import crc32c, decompress, parse_index

Level = Literal["structure", "bytes", "semantic"]


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
    generation: int | None = None
    """Run that wrote what is concerned, if one did."""
    view: int | None = None
    """View of the row concerned, if one is."""
    video: int | None = None
    """Video of the row concerned, if one is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayLimit:
    """How far the rows of one array were from the live teacher: relative L2 differences.

    Encode error and limit belong to a row; here is the largest of each over the rows. None stands
    for infinity, which JSON has not.
    """

    live_difference: float | None
    """Of two live runs that should say the same."""
    encode_error: float | None
    """What the number type on disk may add, at most."""
    limit: float | None
    """Allowed: twice the larger of the two."""
    largest_difference: float | None
    """Found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What level semantic looked at."""

    rows: int
    """Rows that were compared with the live teacher."""
    drawn: int
    """Rows that were drawn; those missing above cannot be cut or decoded any more."""
    rows_in_all: int
    """Rows there were to draw from."""
    seed: int
    """Draws the same rows again, together with their number."""
    confidence: float
    """Of the statement below."""
    defect_rate_below: float | None
    """With this confidence the share of defective rows is smaller; 0 if every row was compared,
    None if defects were found or no row could be compared."""
    limits: dict[str, ArrayLimit]
    """By array; frames and views must be equal and have none."""


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
    """Committed bytes of all objects."""
    failed_videos: int
    """Videos recorded as unreadable. They are not findings."""
    findings: tuple[Finding, ...]
    """Empty if the cache is whole."""
    semantic: Sample | None = None
    """Of level semantic; None if no row could be trusted enough to be compared."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ok": not self.findings}


def verify_cache(folder: Path, level: Literal["structure", "bytes"]) -> Report:
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
    layout = manifest.layout
    commits: list[tuple[Generation, Commit]] = []
    findings = [*_check_metadata(folder, manifest), *_check_commits(folder, manifest, commits)]
    findings += _check_strangers(folder, manifest)
    with progress("verifying", len(commits), unit="commits") as advance:
        for generation, commit in commits:
            findings += _check_unit(folder, manifest, generation, commit, level)
            advance()
    return Report(
        cache=str(folder.absolute()),
        level=level,
        fingerprint=manifest.fingerprint,
        units=layout.num_units,
        bytes=sum(stored.bytes for _, commit in commits for stored in commit.objects.values()),
        failed_videos=len(failures(commit for _, commit in commits)),
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
    folder: Path, manifest: Manifest, commits: list[tuple[Generation, Commit]]
) -> Iterator[Finding]:
    """Read every commit record into `commits`; those that cannot be trusted are findings."""
    layout = manifest.layout
    for generation in manifest.generations:
        for unit in range(layout.num_units):
            problem = None
            try:
                commit = read_commit(folder, generation.number, unit)
            except CacheError as error:
                commit, problem = None, str(error)
            if commit is None:
                problem = problem or "the unit was never finished"
            elif not _belongs(commit, manifest, generation, unit):
                problem = "is the record of another unit or cache"
            else:
                commits.append((generation, commit))
                continue
            yield Finding(
                path=commit_key(generation.number, unit),
                problem=problem,
                unit=unit,
                generation=generation.number,
            )


def _belongs(commit: Commit, manifest: Manifest, generation: Generation, unit: int) -> bool:
    videos = manifest.layout.videos_of(unit)
    return (
        commit.fingerprint == manifest.fingerprint
        and commit.generation == generation.number
        and commit.unit == unit
        and commit.videos == (videos.start, videos.stop)
        and commit.views == generation.views
        and all(video in videos for video in commit.failed)
        and set(commit.objects) == expected_keys(manifest, generation, unit)
    )


def _check_strangers(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    known = {MANIFEST_FILE, *manifest.zarr_sha256}
    for generation in manifest.generations:
        for unit in range(manifest.layout.num_units):
            known.add(commit_key(generation.number, unit))
            known |= expected_keys(manifest, generation, unit)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in known and (path.is_symlink() or not path.is_dir()):
            yield Finding(path=name, problem="does not belong to the cache")


def _check_unit(
    folder: Path, manifest: Manifest, generation: Generation, commit: Commit, level: Level
) -> Iterator[Finding]:
    layout, unit = manifest.layout, commit.unit
    for array in manifest.arrays_of(generation):
        for block, name in layout.objects(array, unit, generation.view_range):
            row = Finding(
                path=name, problem="", array=array.name, unit=unit, generation=generation.number
            )
            path, stored = folder / name, commit.objects[name]
            exact = manifest.codec != "none" or stored.bytes == layout.object_bytes(
                array, block, unit
            )
            if not path.is_file():
                yield replace(row, problem="is missing")
            elif (size := path.stat().st_size) != stored.bytes or not exact:
                yield replace(row, problem=f"has {size} bytes instead of {stored.bytes}")
            elif level == "bytes":
                shard = StoredShard(manifest, array, block, unit, path.read_bytes())
                yield from check_shard(shard, stored.sha256, commit.failed, row)


def report_text(report: Report) -> str:
    """The report for a person."""
    head = (
        f"{report.cache}: {report.units} units, {report.bytes / 1e6:.1f} MB, "
        f"{report.failed_videos} videos recorded as unreadable, level {report.level}"
    )
    lines = [head, *([] if report.semantic is None else _sample_lines(report.semantic))]
    if not report.findings:
        return "\n".join([*lines, "whole: no findings"])
    return "\n".join([*lines, *(f"  {finding_text(finding)}" for finding in report.findings)])


def _sample_lines(sample: Sample) -> list[str]:
    head = f"{sample.rows} of {sample.rows_in_all} rows compared with the live teacher"
    lines = [f"{head} (--rows {sample.drawn} --seed {sample.seed} draws them again)"]
    if sample.limits:
        lines.append(f"  {'array':<18}{'largest':>10}{'limit':>10}{'live':>10}{'encoding':>10}")
    for name, of in sample.limits.items():
        numbers = (of.largest_difference, of.limit, of.live_difference, of.encode_error)
        shown = (f"{'inf' if number is None else f'{number:.1e}':>10}" for number in numbers)
        lines.append(f"  {name:<18}{''.join(shown)}")
    if sample.defect_rate_below == 0:
        lines.append("  a full check: every row was compared")
    elif sample.defect_rate_below is not None:
        lines.append(
            f"  fewer than {sample.defect_rate_below:.3%} of the rows are defective, "
            f"with {sample.confidence:.4g} confidence"
        )
    return lines


@dataclass(frozen=True, slots=True)
class StoredShard:
    """One object, as read."""

    manifest: Manifest
    array: ArraySpec
    block: int
    unit: int
    data: bytes

    def rows(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """View, video and bytes (checksum included) of every row, as its index has them.

        Raises:
            ValueError: If the index is damaged.
        """
        layout = self.manifest.layout
        index = parse_index(self.data[-layout.index_bytes() :], layout)
        content = np.frombuffer(self.data, np.uint8)
        for place, view in enumerate(layout.views_of(self.block)):
            for column, video in enumerate(layout.videos_of(self.unit)):
                offset, length = (int(number) for number in index[place, column])
                yield view, video, content[offset : offset + length]


def check_shard(
    shard: StoredShard, expected_sha256: str, failed: Collection[int], template: Finding
) -> Iterator[Finding]:
    """Compare an object with its commit record.

    Rows are looked at one by one only if the whole is not what was committed. If it is, the rows of
    videos that the record calls unreadable must be marked so, and no others.

    Args:
        shard: The object.
        expected_sha256: As committed.
        failed: Videos that its commit record calls unreadable.
        template: Finding that names the object.
    """
    if sha256(shard.data).hexdigest() == expected_sha256:
        yield from _check_marks(shard, failed, template)
        return
    yield replace(template, problem="does not have the committed sha256")
    try:
        for view, video, row in shard.rows():
            stored = int.from_bytes(row[-CRC_BYTES:].tobytes(), "little")
            if crc32c(row[:-CRC_BYTES].tobytes()) != stored:
                problem = "the row does not have the checksum it was given"
                yield replace(template, problem=problem, view=view, video=video)
    except ValueError as error:
        yield replace(template, problem=str(error))


def _check_marks(
    shard: StoredShard, failed: Collection[int], template: Finding
) -> Iterator[Finding]:
    """Array `views` marks every row; all other rows of an unreadable video are zeros."""
    marked = shard.array.name == "views"
    if not marked and not failed:
        return
    for view, video, stored in shard.rows():
        if not marked and video not in failed:
            continue
        row = decompress(shard.manifest.codec, stored[:-CRC_BYTES])
        is_failed = row.view("<i4")[-1] == FAILED if marked else not row.any()
        if is_failed != (video in failed):
            problem = "is marked otherwise than the commit record says of its video"
            yield replace(template, problem=problem, view=view, video=video)


def finding_text(finding: Finding) -> str:
    """The finding as one line."""
    row = "" if finding.view is None else f" (view {finding.view}, video {finding.video})"
    unit = "" if finding.unit is None else f"unit {finding.unit}: "
    return f"{unit}{finding.path}{row} {finding.problem}"
