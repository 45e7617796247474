"""Commit records: a unit without one does not exist.

Written last, atomically, after every shard object of the unit is safely on disk. They hold no time,
host or path, so that equal work leaves equal bytes.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import CacheError
from common.records import read_record, write_record
from teacher_cache.layout import commit_key


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """One shard object."""

    bytes: int
    """Its size."""
    sha256: str
    """Hexadecimal digest of its content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One finished unit."""

    unit: int
    """Number of the unit."""
    videos: tuple[int, int]
    """First video and one past the last."""
    views: tuple[int, int]
    """First view and one past the last."""
    objects: dict[str, StoredObject]
    """Shard objects by their path inside the cache."""
    failed: dict[int, str]
    """Video number to reason, for videos that could not be read; their rows hold no answers."""


def write_commit(folder: Path, commit: Commit) -> None:
    """Make a unit exist."""
    body = asdict(commit)
    body["failed"] = {str(video): reason for video, reason in commit.failed.items()}
    write_record(folder / commit_key(commit.unit), body)


def read_commit(folder: Path, unit: int) -> Commit | None:
    """Read a unit's record; None if the unit was never finished.

    Raises:
        CacheError: If the record is damaged.
    """
    path = folder / commit_key(unit)
    try:
        body = read_record(path)
    except FileNotFoundError:
        return None
    try:
        return TypeAdapter(Commit).validate_python(body)
    except ValidationError as error:
        raise CacheError(f"{path} is not a commit record: {error}") from error


def read_commits(folder: Path, num_units: int) -> dict[int, Commit]:
    """All finished units by number."""
    found = ((unit, read_commit(folder, unit)) for unit in range(num_units))
    return {unit: commit for unit, commit in found if commit is not None}
