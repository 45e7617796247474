"""Prove that a cache is whole.

Level `structure` (seconds) checks records, hashes of metadata, presence and size of every object,
and that nothing else lies in the folder. Level `bytes` also reads every object: its sha256, its
index, and the checksum of every row. Level `semantic` is in recompute.py: it needs the teacher.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reskd.common.console import progress
from reskd.common.distill.arrays import ArraySpec
from reskd.common.errors import CacheError
from reskd.common.parsing.json_text import parse_json
from reskd.common.storage.kinds import read_file, require_file
from reskd.common.storage.system_errors import errno_text, remedy
from reskd.teacher_cache.format.commits import (
    Commit,
    CommitCheck,
    expected_keys,
    failures,
    read_commit,
)
from reskd.teacher_cache.format.layout import commit_key, object_key
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, Generation, Manifest, read_manifest
from reskd.teacher_cache.format.row_checksums import is_table, table_of
from reskd.teacher_cache.format.videos import videos_key
from reskd.teacher_cache.read.expected_checksums import read_table
from reskd.teacher_cache.verify.check_shard import StoredShard, check_shard
from reskd.teacher_cache.verify.report import STRANGER, Finding, Level, Report


def verify_cache(folder: Path, level: Literal["structure", "bytes"]) -> Report:
    """Check a cache; what is wrong comes back as findings, not as exceptions.

    Raises:
        CacheError: If there is no cache at all in this place.
    """
    if not os.path.lexists(folder / MANIFEST_FILE):
        read_manifest(folder)  # explains what is missing
    try:
        manifest = read_manifest(folder)
    except (CacheError, OSError) as error:
        problem = _unread(error) if isinstance(error, OSError) else str(error)
        finding = Finding(path=MANIFEST_FILE, problem=problem)
        return Report(
            cache=str(folder.absolute()),
            level=level,
            fingerprint=None,
            units=0,
            bytes=0,
            failed_videos=0,
            row_checksums=None,
            findings=(finding,),
        )
    layout = manifest.layout
    commits: list[tuple[Generation, Commit]] = []
    findings = [
        *_check_metadata(folder, manifest),
        *_check_videos(folder, manifest),
        *_check_commits(folder, manifest, commits),
    ]
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
        bytes=sum(commit.bytes for _, commit in commits),
        failed_videos=len(failures(commit for _, commit in commits)),
        row_checksums=manifest.row_checksums,
        findings=tuple(findings),
    )


def _check_metadata(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    for name, expected in manifest.zarr_sha256.items():
        yield from _check_digest(folder, name, expected)
    for array in manifest.stored_arrays:
        name = f"{array.name}/zarr.json"
        with suppress(OSError):  # found above
            problem = _zarr_problem(manifest, array, read_file(folder / name))
            if problem is not None:
                yield Finding(path=name, problem=problem)


def _zarr_problem(manifest: Manifest, array: ArraySpec, content: bytes) -> str | None:
    """Whether a zarr.json says of an array what cache.json says."""
    layout = manifest.layout
    expected = {
        "shape": [layout.num_views, layout.extent, *array.row_shape],
        "data_type": array.dtype,
        "attributes": dict(array.attributes),
        "chunk_grid": {
            "name": "regular",
            "configuration": {
                "chunk_shape": [layout.block_views, layout.unit_videos, *array.row_shape]
            },
        },
    }
    try:
        stored = parse_json(content)
        different = [name for name, value in expected.items() if stored[name] != value]
    except (KeyError, TypeError, ValueError):
        return "is no description of an array"
    return f"and cache.json differ in {different[0]}" if different else None


def _check_videos(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    for number, table in enumerate(manifest.videos, start=1):
        yield from _check_digest(folder, videos_key(number), table.sha256)


def _check_digest(folder: Path, name: str, expected: str) -> Iterator[Finding]:
    try:
        got = sha256(read_file(folder / name)).hexdigest()
    except FileNotFoundError:
        yield Finding(path=name, problem="is missing")
    except OSError as error:
        yield Finding(path=name, problem=_unread(error))
    else:
        if got != expected:
            yield Finding(path=name, problem=f"has sha256 {got[:12]}…, not {expected[:12]}…")


def _unread(error: OSError) -> str:
    """What a file's error says of the cache: whatever the reason, it is not proved whole."""
    return f"cannot be read: {errno_text(error)}. {remedy(error.errno)}"


def _check_commits(
    folder: Path, manifest: Manifest, commits: list[tuple[Generation, Commit]]
) -> Iterator[Finding]:
    """Read every commit record into `commits`; those that cannot be trusted are findings."""
    check = CommitCheck(manifest)
    for generation in manifest.generations:
        for unit in manifest.units_of(generation):
            problem = None
            try:
                commit = read_commit(folder, generation.number, unit)
            except CacheError as error:
                commit, problem = None, str(error)
            except OSError as error:
                commit, problem = None, _unread(error)
            if commit is None:
                problem = problem or "the unit was never finished"
            elif (problem := check.problem(commit)) is None:
                commits.append((generation, commit))
                continue
            yield Finding(
                path=commit_key(generation.number, unit),
                problem=problem,
                unit=unit,
                generation=generation.number,
            )


def _check_strangers(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    tables = (videos_key(number + 1) for number in range(len(manifest.videos)))
    known = {MANIFEST_FILE, *manifest.zarr_sha256, *tables}
    for generation in manifest.generations:
        for unit in manifest.units_of(generation):
            known.add(commit_key(generation.number, unit))
            known |= expected_keys(manifest, generation, unit)
    unlisted: list[OSError] = []
    for name in sorted(set(_files(folder, "", unlisted)) - known):
        yield Finding(path=name, problem=STRANGER)
    for error in unlisted:
        name = Path(error.filename or folder).relative_to(folder).as_posix()
        yield Finding(path=name, problem=_unread(error))


def _files(folder: str | os.PathLike[str], prefix: str, unlisted: list[OSError]) -> Iterator[str]:
    """What is in a folder and those below it and is no folder itself, by its path inside."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        unlisted.append(error)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, f"{prefix}{entry.name}/", unlisted)
        else:
            yield f"{prefix}{entry.name}"


def _check_unit(
    folder: Path, manifest: Manifest, generation: Generation, commit: Commit, level: Level
) -> Iterator[Finding]:
    layout, unit = manifest.layout, commit.unit
    for array in manifest.stored_arrays_of(generation):
        codec = manifest.codec_of(array)
        for block, name in layout.objects(array, unit, generation.view_range):
            finding = Finding(
                path=name, problem="", array=array.name, unit=unit, generation=generation.number
            )
            path, stored = folder / name, commit.objects[name]
            exact = codec != "none" or stored.bytes == layout.object_bytes(array, block, unit)
            try:
                require_file(path)
                if (size := path.stat().st_size) != stored.bytes or not exact:
                    yield replace(finding, problem=f"has {size} bytes instead of {stored.bytes}")
                elif level == "bytes":
                    shard = StoredShard(manifest, array, block, unit, read_file(path))
                    bound = _bound(folder, manifest, commit, array, block)
                    failed = () if is_table(array) else commit.failed
                    yield from check_shard(shard, stored.sha256, failed, finding, bound=bound)
            except FileNotFoundError:
                yield replace(finding, problem="is missing")
            except OSError as error:
                yield replace(finding, problem=_unread(error))


def _bound(
    folder: Path, manifest: Manifest, commit: Commit, array: ArraySpec, block: int
) -> NDArray[np.uint32] | None:
    """Checksums for the places of an object; None without a table, or one with findings."""
    found = table_of(array.name, manifest.tables)
    if found is None:
        return None
    table, column = found
    key = object_key(table, block, commit.unit)
    try:
        return read_table(folder, key, commit.objects[key], table, manifest.layout)[:, column]
    except (OSError, ValueError):
        return None
