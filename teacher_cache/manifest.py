"""cache.json: whose answers these are (identity), and which arrays are here (contents).

Free of torch, so that a store can be checked where torch is not installed.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.distill.arrays import ArraySpec, TargetPlan
from common.errors import CacheError
from common.records import digest, read_record, write_record
from teacher_cache.identity import Identity
from teacher_cache.layout import Layout

FORMAT = "reskd-cache/1"
MANIFEST_FILE = "cache.json"


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
    """V, N and S."""
    zarr_sha256: dict[str, str]
    """Hexadecimal sha256 of every zarr.json, by its path inside the cache."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 of the identity."""
        return digest(self.identity)

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
            f"The cache holds no array {name!r}, only {held}. Write a cache with that target, or "
            "set the weight of the loss that needs it to 0."
        )

    def fits(self, plan: TargetPlan) -> str | None:
        """Name the first stored array that is not what a plan asks for; None if all are."""
        held = {array.name: array for array in self.arrays}
        for wanted in plan.arrays:
            if held.get(wanted.name) != wanted:
                return (
                    f"targets.{wanted.name}: the cache has {held.get(wanted.name)}, "
                    f"the experiment asks for {wanted}"
                )
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write cache.json, whole."""
    contents = asdict(manifest)
    identity = contents.pop("identity")
    write_record(
        folder / MANIFEST_FILE, {"format": FORMAT, "identity": identity, "contents": contents}
    )


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
    if body.get("format") != FORMAT:
        raise CacheError(
            f"{path} has format {body.get('format')!r}; this program reads {FORMAT!r}."
        )
    try:
        return TypeAdapter(Manifest).validate_python(
            {"identity": body["identity"], **body["contents"]}
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise CacheError(f"{path} lacks what {FORMAT!r} asks for: {error}") from error
