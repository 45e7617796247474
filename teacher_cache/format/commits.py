"""Commit records: what a run wrote of a unit does not exist without one.

Written last, atomically, after every shard object of the unit is safely on disk. They hold no time,
host or path, so that equal work leaves equal bytes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from reskd.common.errors import CacheError
from reskd.common.storage.records import read_record, write_record
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import Generation, Manifest

TAKEN_OUT: Final = "the index does not list it any more"
"""Why a video has no rows that was taken out before the teacher came to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """One shard object."""

    bytes: int
    """Its size."""
    sha256: str
    """Hexadecimal digest of its content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """How the teacher ran for a unit: whatever may change the last bits of its outputs."""

    batch_clips: int
    """Clips it saw at once, of whichever videos of the unit; the last batch was filled up."""
    memory_format: str
    """How its tensors lay in memory."""
    device: str
    """Name of the device."""
    torch_threads: int
    """Threads torch computed with, where that was on the CPU."""
    versions: dict[str, str]
    """Of the libraries that computed, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """What one run wrote of one unit."""

    fingerprint: str
    """Of the cache and the videos it was written for (`Manifest.unit_fingerprint`): a record does
    not move to another cache unnoticed."""
    generation: int
    """Number of the run in cache.json."""
    unit: int
    """Number of the unit."""
    videos: tuple[int, int]
    """First video and one past the last."""
    views: tuple[int, int]
    """First view and one past the last."""
    objects: dict[str, StoredObject]
    """Shard objects by their path inside the cache."""
    failed: dict[int, str]
    """Video number to reason, for videos that could not be read; their rows hold no targets."""
    groups: tuple[tuple[int, ...], ...]
    """Videos whose clips the teacher saw together, view by view; empty where that changes nothing
    (teacher mode eval)."""
    computed: Computed | None = None
    """None in records of before this was recorded: the clips of each video by themselves, up to
    eight at once. Also where no teacher ran."""

    @property
    def bytes(self) -> int:
        """Size of all its objects."""
        return sum(stored.bytes for stored in self.objects.values())


_COMMIT: Final = TypeAdapter(Commit)  # building one takes ten times as long as reading a record


def write_commit(folder: Path, commit: Commit) -> None:
    """Make what was written of a unit exist."""
    body = asdict(commit)
    body["failed"] = {str(video): reason for video, reason in commit.failed.items()}
    if commit.computed is None:
        del body["computed"]  # such a record has no field for it
    write_record(folder / commit_key(commit.generation, commit.unit), body)


def read_commit(folder: Path, generation: int, unit: int) -> Commit | None:
    """Read one record; None if that run never finished that unit.

    Raises:
        CacheError: If the record is damaged.
    """
    path = folder / commit_key(generation, unit)
    try:
        body = read_record(path)
    except FileNotFoundError:
        return None
    try:
        return _COMMIT.validate_python(body)
    except ValidationError as error:
        raise CacheError(f"{path} is not a commit record: {error}") from error


def read_commits(folder: Path, generation: int, units: Iterable[int]) -> dict[int, Commit]:
    """Those of some units that a run finished, by number."""
    found = ((unit, read_commit(folder, generation, unit)) for unit in units)
    return {unit: commit for unit, commit in found if commit is not None}


def missing_units(folder: Path, manifest: Manifest, generation: Generation) -> list[int]:
    """Units that a run has not committed."""
    units = manifest.units_of(generation)
    finished = read_commits(folder, generation.number, units)
    return [unit for unit in units if unit not in finished]


def check_fingerprint(folder: Path, manifest: Manifest, commits: Iterable[Commit]) -> None:
    """A unit of another cache holds another teacher's outputs, however well it fits.

    Raises:
        CacheError: If a record was written for a cache of another fingerprint.
    """
    for commit in commits:
        if commit.fingerprint != (own := manifest.unit_fingerprint(commit.unit)):
            raise CacheError(
                f"Cache {folder}: the record of unit {commit.unit} belongs to another cache (its "
                f"fingerprint is {commit.fingerprint[:12]}…, this one's {own[:12]}…). "
                f"`reskd cache repair {folder}` computes the unit anew."
            )


def failures(commits: Iterable[Commit]) -> dict[int, str]:
    """Every video that some run could not read, with the reason."""
    return {video: reason for commit in commits for video, reason in commit.failed.items()}


def taken_out(folder: Path, manifest: Manifest) -> set[int]:
    """Videos without rows because the index did not list them while some run went on.

    Records that are damaged tell nothing; whoever reads the rows, or verifies, finds them.
    """
    found: set[int] = set()
    for generation in manifest.generations:
        for unit in manifest.units_of(generation):
            with suppress(CacheError):
                commit = read_commit(folder, generation.number, unit)
                found |= taken_out_of({} if commit is None else commit.failed)
    return found


def taken_out_of(failed: Mapping[int, str]) -> set[int]:
    """Those of some videos without rows that the index did not list."""
    return {video for video, reason in failed.items() if reason == TAKEN_OUT}


def bytes_by_array(commits: Iterable[Commit]) -> Counter[str]:
    """Committed bytes of every array."""
    total: Counter[str] = Counter()
    for commit in commits:
        for key, stored in commit.objects.items():
            total[key.split("/")[0]] += stored.bytes
    return total


def expected_keys(manifest: Manifest, generation: Generation, unit: int) -> set[str]:
    """Paths of all objects that a run writes of a unit."""
    return {
        key
        for array in manifest.arrays_of(generation)
        for _, key in manifest.layout.objects(array, unit, generation.view_range)
    }
