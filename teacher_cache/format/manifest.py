"""cache.json: whose outputs these are (identity), and which arrays are here (contents).

Free of torch, so that a store can be checked where torch is not installed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from reskd.common.distill.arrays import ArraySpec, TargetPlan, array_in_words
from reskd.common.errors import CacheError
from reskd.common.storage.records import digest, read_record, write_record
from reskd.teacher_cache.format.bounds import (
    WrittenBy,
    array_problems,
    digest_problems,
    identity_problems,
    layout_problems,
    run_problems,
    video_problems,
)
from reskd.teacher_cache.format.identity import Identity
from reskd.teacher_cache.format.layout import Layout
from reskd.teacher_cache.format.row_checksums import checksum_tables, is_table, is_written_with
from reskd.teacher_cache.format.shard import Codec
from reskd.teacher_cache.format.videos import VideoTable

FORMAT: Final = "reskd-cache/1.1"
FIRST_FORMAT: Final = "reskd-cache/1"
"""Without tables of videos: such a cache is known by the digest of its index, rows by their place
in it. It is read, finished and repaired as ever."""
MANIFEST_FILE = "cache.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What one run adds to every unit: some views of some arrays."""

    number: int
    """From 1: the run that made the cache, then its extensions."""
    views: tuple[int, int]
    """First view and one past the last."""
    arrays: tuple[str, ...]
    """Names of its arrays, in the order they are written."""
    units: tuple[int, int] | None = None
    """First unit and one past the last; None, of the first format, are all."""

    @property
    def view_range(self) -> range:
        """Its views."""
        return range(*self.views)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The content of cache.json."""

    identity: Identity
    """See `cache_identity`."""
    arrays: tuple[ArraySpec, ...]
    """Arrays of the store."""
    teacher_grid: tuple[int, int]
    """Grid of the teacher's feature map."""
    layout: Layout
    """V, V0, N and S."""
    codec: Codec
    """Compression of every row."""
    generations: tuple[Generation, ...]
    """Runs in order. Together they cover every view of every array once."""
    zarr_sha256: dict[str, str]
    """Hexadecimal sha256 of every zarr.json, by its path inside the cache."""
    videos: tuple[VideoTable, ...] = ()
    """Which videos are here; none in the first format."""
    classes: tuple[str, ...] = ()
    """Names of the classes when the cache was made, in the order of the teacher's class scores."""
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of code of the user's by name: hexadecimal sha256 of the sources that say what is here."""
    row_checksums: bool = False
    """Whether rows are bound to their places (row_checksums.py); not in caches of before."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the identity."""
        return digest(self.identity)

    def unit_fingerprint(self, unit: int) -> str:
        """What a unit's records name: the cache's, and of videos added later these too."""
        first = self.layout.videos_of(unit).start
        for table in self.videos[1:]:
            if table.rows[0] <= first < table.rows[1]:
                return digest({"cache": self.fingerprint, "videos": table.content})
        return self.fingerprint

    def units_of(self, generation: Generation) -> range:
        """Units that a generation writes."""
        whole = (0, self.layout.num_units)
        return range(*(whole if generation.units is None else generation.units))

    def generations_of(self, unit: int) -> tuple[Generation, ...]:
        """Generations that write something of a unit, in order."""
        return tuple(one for one in self.generations if unit in self.units_of(one))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the teacher's scores, whatever the format."""
        return self.classes or tuple(self.identity.get("index", {}).get("classes", ()))

    @property
    def format(self) -> str:
        """Name of the format its files have."""
        return FORMAT if self.videos or self.row_checksums else FIRST_FORMAT

    @property
    def tables(self) -> tuple[ArraySpec, ...]:
        """Arrays of the store that hold the checksums of rows; none in caches of before."""
        return checksum_tables(self.generations) if self.row_checksums else ()

    @property
    def stored_arrays(self) -> tuple[ArraySpec, ...]:
        """All arrays of the store, those with checksums last."""
        return (*self.arrays, *self.tables)

    @property
    def split(self) -> str:
        """Split of the video index that was cached."""
        return str(self.identity.get("index", {}).get("split", "?"))

    def array(self, name: str) -> ArraySpec:
        """One array by name.

        Raises:
            CacheError: If the cache does not hold it.
        """
        for array in self.arrays:
            if array.name == name:
                return array
        held = ", ".join(array.name for array in self.arrays)
        raise CacheError(
            f"The cache holds no array {name!r}, only {held}. Add that target with `reskd cache "
            "extend CACHE --targets NAME`, or set the weight of the loss that needs it to 0."
        )

    def arrays_of(self, generation: Generation) -> tuple[ArraySpec, ...]:
        """Arrays that a generation fills."""
        return tuple(array for array in self.arrays if array.name in generation.arrays)

    def tables_of(self, generation: Generation) -> tuple[ArraySpec, ...]:
        """Tables of the checksums of these."""
        return tuple(one for one in self.tables if is_written_with(one, generation.arrays))

    def stored_arrays_of(self, generation: Generation) -> tuple[ArraySpec, ...]:
        """All that a generation writes objects of."""
        return (*self.arrays_of(generation), *self.tables_of(generation))

    def codec_of(self, array: ArraySpec) -> Codec:
        """Compression of an array's rows: none of checksums."""
        return "none" if is_table(array) else self.codec

    def plan_of(self, generation: Generation) -> TargetPlan:
        """What has to be computed for a generation."""
        held = {array.name: array.row_shape for array in self.arrays}
        height, width = held["features"][-2:] if "features" in held else self.teacher_grid
        return TargetPlan(
            arrays=self.arrays_of(generation),
            teacher_grid=self.teacher_grid,
            feature_grid=(height, width),
            student_size=held["frames"][-1] if "frames" in held else 0,
        )

    def generation_bytes(self, generation: Generation, unit: int | None = None) -> int:
        """Exact bytes that a generation writes, or writes of one unit, rows not compressed."""
        units = self.units_of(generation) if unit is None else (unit,)
        return sum(
            self.layout.unit_bytes(array, number, generation.view_range)
            for number in units
            for array in self.stored_arrays_of(generation)
        )

    def upto(self, generation: int) -> "Manifest":
        """The cache as it was when a generation was the last one."""
        kept = self.generations[:generation]
        names = {name for one in kept for name in one.arrays}
        layout = self.layout.with_units(max(self.units_of(one).stop for one in kept))
        return replace(
            self,
            generations=kept,
            arrays=tuple(array for array in self.arrays if array.name in names),
            layout=replace(layout, num_views=max(one.views[1] for one in kept)),
            videos=tuple(table for table in self.videos if table.rows[0] < layout.extent),
        )

    def fits(self, wanted: Iterable[ArraySpec]) -> str | None:
        """Name the first of some arrays that the cache does not hold as it is; None if all are."""
        held = {array.name: array for array in self.arrays}
        for array in wanted:
            if held.get(array.name) != array:
                return (
                    f"target {array.name}: the cache has {array_in_words(held.get(array.name))}, "
                    f"the experiment asks for {array_in_words(array)}"
                )
        return None


_MANIFEST: Final = TypeAdapter(Manifest)


def first_generation(arrays: Sequence[ArraySpec], layout: Layout) -> Generation:
    """The run that makes a cache: all of its views and arrays."""
    return Generation(
        number=1,
        views=(0, layout.num_views),
        arrays=tuple(array.name for array in arrays),
        units=(0, layout.num_units),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write cache.json, whole.

    Raises:
        CacheError: If it would not be read again, see bounds.py.
    """
    _check(folder, manifest)
    contents = asdict(manifest)
    identity = contents.pop("identity")
    if not manifest.sources:
        del contents["sources"]
    if manifest.format == FIRST_FORMAT:
        _as_first_format(contents)
    if not manifest.row_checksums:
        del contents["row_checksums"]  # such a record has no field for it
    write_record(
        folder / MANIFEST_FILE,
        {"format": manifest.format, "identity": identity, "contents": contents},
    )


def _as_first_format(contents: dict[str, Any]) -> None:
    """Leave out what a cache of the first format does not have: its bytes stay what they were."""
    del contents["videos"], contents["classes"], contents["layout"]["absent"]
    for generation in contents["generations"]:
        del generation["units"]


def read_manifest(folder: Path) -> Manifest:
    """Read and check cache.json.

    Raises:
        CacheError: If there is none, or it is damaged, or of another format.
    """
    path = folder / MANIFEST_FILE
    try:
        body = read_record(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CacheError(
            f"{folder} is not a teacher cache: there is no {MANIFEST_FILE} in it. "
            "`reskd cache-teacher EXPERIMENT --cache DIR` writes one."
        ) from error
    if body.get("format") not in (FIRST_FORMAT, FORMAT):
        raise CacheError(
            f"{path} has format {body.get('format')!r}; this program reads {FIRST_FORMAT} and "
            f"{FORMAT}."
        )
    try:
        manifest = _MANIFEST.validate_python({"identity": body["identity"], **body["contents"]})
    except (KeyError, TypeError, ValidationError) as error:
        raise CacheError(f"{path} lacks what its format asks for: {error}") from error
    if manifest.videos and manifest.identity.get("videos") != manifest.videos[0].content:
        raise CacheError(
            f"{path} contradicts itself: the videos that its identity names (field videos) are not "
            "those of its first table. Restore it from a copy, or write the cache again."
        )
    _check(folder, manifest)
    return manifest


def _check(folder: Path, manifest: Manifest) -> None:
    if (problem := next(_problems(folder, manifest), None)) is not None:
        raise CacheError(
            f"{folder / MANIFEST_FILE} says what cannot be true of a cache: {problem}. It is not "
            "to be trusted, whoever sealed it: take the cache from where it was made, or write it "
            "again."
        )


def _problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What cannot be true; each line may rely on those before it."""
    layout, arrays, tables = manifest.layout, manifest.arrays, manifest.videos
    yield from identity_problems(manifest.identity)
    yield from layout_problems(layout, with_tables=bool(tables))
    yield from array_problems(arrays, manifest.teacher_grid, len(manifest.class_names))
    runs = [
        WrittenBy(one.number, one.views, one.arrays, manifest.units_of(one))
        for one in manifest.generations
    ]
    yield from run_problems(layout, arrays, runs)
    yield from video_problems(folder, layout, tables)
    yield from digest_problems(manifest.stored_arrays, manifest.zarr_sha256, tables)
