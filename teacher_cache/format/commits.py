"""Commit records: what a run wrote of a unit does not exist without one.

Written last, atomically, after every shard object of the unit is safely on disk. They hold no time,
host or path, so that equal work leaves equal bytes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from reskd.common.errors import CacheError
from reskd.common.storage.records import read_record, write_record
from reskd.teacher_cache.format.layout import commit_key
from reskd.teacher_cache.format.manifest import Generation, Manifest

_MOST_CLIPS: Final = 1 << 16
_MOST_THREADS: Final = 1 << 16
_ZSTD_FRAME: Final = 64
"""Bytes that compressing a row may add, besides a small share of it."""
_SHA256_DIGITS: Final = 64
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
        CacheError: If the record is damaged, or another one's under this name.
    """
    path = folder / commit_key(generation, unit)
    try:
        body = read_record(path)
    except FileNotFoundError:
        return None
    try:
        commit = _COMMIT.validate_python(body)
    except ValidationError as error:
        raise CacheError(f"{path} is not a commit record: {error}") from error
    if (commit.generation, commit.unit) != (generation, unit):
        raise CacheError(
            f"{path} is the record of unit {commit.unit} of run {commit.generation} under the name "
            f"of unit {unit} of run {generation}. `reskd cache repair` computes the unit anew."
        )
    return commit


def read_commits(folder: Path, generation: int, units: Iterable[int]) -> dict[int, Commit]:
    """Those of some units that a run finished, by number."""
    found = ((unit, read_commit(folder, generation, unit)) for unit in units)
    return {unit: commit for unit, commit in found if commit is not None}


def missing_units(folder: Path, manifest: Manifest, generation: Generation) -> list[int]:
    """Units that a run has not committed."""
    units = manifest.units_of(generation)
    finished = read_commits(folder, generation.number, units)
    return [unit for unit in units if unit not in finished]


def check_commits(folder: Path, manifest: Manifest, commits: Iterable[Commit]) -> None:
    """A unit of another cache holds another teacher's outputs, however well it fits.

    Raises:
        CacheError: If a record was written for a cache of another fingerprint, or says what cannot
            be true of its unit.
    """
    check = CommitCheck(manifest)
    for commit in commits:
        if (problem := check.problem(commit)) is not None:
            raise CacheError(
                f"Cache {folder}: the record of unit {commit.unit}, run {commit.generation}, "
                f"{problem}. `reskd cache repair {folder}` computes the unit anew."
            )


class CommitCheck:
    """What the records of a cache must say; one for all of them, as most are of equal units."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._fingerprint = manifest.fingerprint
        self._objects: dict[tuple[int, int], list[_Expected]] = {}

    def problem(self, commit: Commit) -> str | None:
        """What cannot be true of a record that lies under its own name; None if nothing is."""
        manifest, unit = self._manifest, commit.unit
        generation = manifest.generations[commit.generation - 1]
        videos, own = manifest.layout.videos_of(unit), self._fingerprint
        if len(manifest.videos) > 1:
            own = manifest.unit_fingerprint(unit)
        if commit.fingerprint != own:
            return (
                f"belongs to another cache (its fingerprint is {commit.fingerprint[:12]}…, this "
                f"one's {own[:12]}…)"
            )
        if commit.videos != (videos.start, videos.stop) or commit.views != generation.views:
            return f"is of videos {commit.videos} and views {commit.views}, which are not its own"
        named = [*commit.failed, *(video for group in commit.groups for video in group)]
        if not all(video in videos for video in named):
            return "names videos that are not of its unit"
        if len(commit.groups) > len(videos) or any(len(one) > len(videos) for one in commit.groups):
            return "has more groups of videos, or larger ones, than its unit has videos"
        ran = commit.computed
        if ran is not None and not (
            1 <= ran.batch_clips <= _MOST_CLIPS and 0 <= ran.torch_threads <= _MOST_THREADS
        ):
            return f"says {ran.batch_clips} clips at once and {ran.torch_threads} threads"
        return self._object_problem(commit, generation, len(videos))

    def _object_problem(
        self, commit: Commit, generation: Generation, num_videos: int
    ) -> str | None:
        kind = generation.number, num_videos
        if kind not in self._objects:
            self._objects[kind] = list(_expected(self._manifest, generation, commit.unit))
        for before, after, least, most in self._objects[kind]:
            stored = commit.objects.get(f"{before}{commit.unit}{after}")
            if stored is None:
                return f"does not name {before}{commit.unit}{after}"
            if not least <= stored.bytes <= most or len(stored.sha256) != _SHA256_DIGITS:
                return f"says {stored.bytes} bytes of {before}{commit.unit}{after}, and not {most}"
        if len(commit.objects) != len(self._objects[kind]):
            return "names objects that its run does not write"
        return None


class _Expected(NamedTuple):
    """An object that a run writes of every unit of some size."""

    before: str
    """Its path up to the unit's number."""
    after: str
    least: int
    """Bytes."""
    most: int


def _expected(manifest: Manifest, generation: Generation, unit: int) -> Iterator[_Expected]:
    layout = manifest.layout
    for array in manifest.stored_arrays_of(generation):
        for block, key in layout.objects(array, unit, generation.view_range):
            before = f"{array.name}/c/{block}/"
            least = most = layout.object_bytes(array, block, unit)
            if manifest.codec_of(array) != "none":
                rows = len(layout.views_of(block)) * len(layout.videos_of(unit))
                least, most = layout.index_bytes(), most + most // 64 + _ZSTD_FRAME * rows
            yield _Expected(before, key.removeprefix(f"{before}{unit}"), least, most)


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
        for array in manifest.stored_arrays_of(generation)
        for _, key in manifest.layout.objects(array, unit, generation.view_range)
    }
