"""Make a cache, change its shape, and add whole units to it: objects first, the record last."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np

from reskd.common.console import say
from reskd.common.distill.arrays import ArraySpec, Row, TargetPlan
from reskd.common.errors import StoppedShortError
from reskd.common.storage.atomic_write import (
    atomic_folder,
    atomic_write,
    put_in_place,
    write_partial,
)
from reskd.teacher_cache.fill.locks import unit_writer
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.format.commits import Commit, Computed, StoredObject, write_commit
from reskd.teacher_cache.format.identity import Identity
from reskd.teacher_cache.format.layout import Layout, commit_key
from reskd.teacher_cache.format.manifest import (
    MANIFEST_FILE,
    Generation,
    Manifest,
    first_generation,
    write_manifest,
)
from reskd.teacher_cache.format.metadata import zarr_files
from reskd.teacher_cache.format.row_checksums import summed_arrays
from reskd.teacher_cache.format.shard import AnyShardBuffer, Codec, shard_buffer
from reskd.teacher_cache.format.videos import CachedVideo, write_videos

WRITE_THREADS = 4
"""Objects of a unit written at once, which mostly wait for the disk, while as many are hashed."""


def create_cache(
    folder: Path,
    *,
    identity: Identity,
    plan: TargetPlan,
    layout: Layout,
    codec: Codec = "none",
    videos: Sequence[CachedVideo] = (),
    classes: Sequence[str] = (),
    sources: Mapping[str, str] | None = None,
) -> None:
    """Make an empty cache: the Zarr group, its arrays and cache.json, all at once.

    Everything is written into a partial folder that is then renamed.

    Args:
        folder: What does not exist yet, or an empty folder.
        identity: Whose outputs it will hold.
        plan: Its arrays.
        layout: Their shape.
        codec: Of every row.
        videos: What the rows are of; without them the cache has the first format.
        classes: Names of the classes of the teacher's scores, in their order.
        sources: Digests of the user's code that it will be made with, by name.

    Raises:
        OSError: If there is something in this place (ENOTEMPTY), for one another one's cache.
    """
    with atomic_folder(folder) as partial:
        manifest = Manifest(
            identity=identity,
            arrays=plan.arrays,
            teacher_grid=plan.teacher_grid,
            layout=layout,
            codec=codec,
            generations=(first_generation(plan.arrays, layout),),
            zarr_sha256={},
            videos=(write_videos(partial, 1, 0, videos),) if videos else (),
            classes=tuple(classes),
            sources={name: (digest,) for name, digest in (sources or {}).items()},
            row_checksums=True,
        )
        write_metadata(partial, manifest)


def write_metadata(folder: Path, manifest: Manifest) -> Manifest:
    """Write every zarr.json that a manifest's arrays ask for, then cache.json with their hashes.

    Files that are already right are left alone. Stopped in between, cache.json still describes the
    cache as it was; the same call fixes the rest.

    Returns:
        The manifest with the hashes, as it was written.
    """
    files = zarr_files(manifest)
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            atomic_write(path, content)
    hashes = {name: sha256(content).hexdigest() for name, content in files.items()}
    written = replace(manifest, zarr_sha256=hashes)
    write_manifest(folder, written)
    return written


class UnitBuffers:
    """All objects that one run writes of one unit, in memory."""

    def __init__(self, manifest: Manifest, generation: Generation, unit: int) -> None:
        self.unit, self.generation = unit, generation
        self._manifest = manifest
        self._start = generation.views[0]
        layout = manifest.layout
        self.objects: dict[str, dict[str, AnyShardBuffer]] = {
            array.name: {
                key: shard_buffer(manifest.codec, array, layout, block, unit)
                for block, key in layout.objects(array, unit, generation.view_range)
            }
            for array in manifest.arrays_of(generation)
        }
        """By array and path."""

    def put(self, place: int, rows: Mapping[str, Row], first_view: int | None = None) -> None:
        """Take everything about some views of one video.

        Args:
            place: The video's place inside the unit.
            rows: Per array (n, *row_shape), of n views in order.
            first_view: The first of them; None is the first of the generation.
        """
        first = self._start if first_view is None else first_view
        for name, blocks in self.objects.items():
            end = first + len(rows[name])
            for buffer in blocks.values():
                start, stop = max(first, buffer.views.start), min(end, buffer.views.stop)
                if start < stop:
                    own = rows[name][start - first : stop - first]
                    buffer.put(place, own, start - buffer.views.start)

    def pieces(self) -> dict[str, list[memoryview]]:
        """The bytes of every object in order, by path: of rows, and of their checksums."""
        found = {
            key: buffer.pieces()
            for blocks in self.objects.values()
            for key, buffer in blocks.items()
        }
        for table in self._manifest.tables_of(self.generation):
            found |= self._table(table)
        return found

    def _table(self, table: ArraySpec) -> dict[str, list[memoryview]]:
        """Objects that hold the checksums of rows."""
        layout, views = self._manifest.layout, self.generation.view_range
        summed = [[*self.objects[name].values()] for name in summed_arrays(table)]
        found = {}
        for (block, key), *buffers in zip(
            layout.objects(table, self.unit, views), *summed, strict=True
        ):
            sums_VSA = np.stack([buffer.checksums() for buffer in buffers], axis=-1)
            shard = shard_buffer(self._manifest.codec_of(table), table, layout, block, self.unit)
            for place in range(sums_VSA.shape[1]):
                shard.put(place, sums_VSA[:, place])
            found[key] = shard.pieces()
        return found


def write_unit(
    folder: Path,
    manifest: Manifest,
    buffers: UnitBuffers,
    failed: Mapping[int, str],
    groups: Sequence[Sequence[int]] = (),
    computed: Computed | None = None,
) -> Commit | None:
    """Write every object of a unit, then its commit record.

    All objects are on the disk, under partial names, before any gets its own. That is done under
    the unit's lock, so that a unit's objects and its record are always of one writer.

    Returns:
        The record; None if another process has committed the unit meanwhile. Its unit stays.

    Raises:
        OSError: If the disk is full; the unit then does not exist, all others are untouched.
        StoppedShortError: If the cache is gone.
    """
    _require_there(folder)
    pieces = buffers.pieces()
    partials: dict[str, Path] = {}

    def write(key: str) -> None:
        partials[key] = write_partial(folder / key, pieces[key])

    # Largest first, so that no thread is left with much to do when the others have finished.
    order = sorted(pieces, key=lambda key: -_size(pieces[key]))
    try:
        with (
            ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="cache-writer") as writers,
            ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="cache-hasher") as hashers,
        ):
            hashing = hashers.map(_sha256, [pieces[key] for key in order])
            # Where one cannot be written, this gives up those that have not begun.
            list(writers.map(write, order))
            hashes = dict(zip(order, hashing, strict=True))
        stored = {key: StoredObject(bytes=_size(pieces[key]), sha256=hashes[key]) for key in pieces}
        videos = manifest.layout.videos_of(buffers.unit)
        commit = Commit(
            fingerprint=manifest.unit_fingerprint(buffers.unit),
            generation=buffers.generation.number,
            unit=buffers.unit,
            videos=(videos.start, videos.stop),
            views=buffers.generation.views,
            objects=stored,
            failed=dict(failed),
            groups=tuple(tuple(group) for group in groups),
            computed=computed,
        )
        return commit if _publish(folder, commit, partials) else None
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def _publish(folder: Path, commit: Commit, partials: Mapping[str, Path]) -> bool:
    """Make a unit exist, unless it does already."""
    with unit_writer(folder, commit.unit):
        _require_there(folder)
        if (folder / commit_key(commit.generation, commit.unit)).exists():
            say(f"unit {commit.unit} was committed by another process meanwhile; its rows stay")
            return False
        with ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="cache-writer") as writers:
            list(writers.map(lambda key: put_in_place(partials[key], folder / key), partials))
        write_commit(folder, commit)
        return True


def _require_there(folder: Path) -> None:
    if not (folder / MANIFEST_FILE).is_file():
        raise StoppedShortError(
            f"The cache {folder} is gone: there is no {MANIFEST_FILE} any more. If its disk is not "
            "mounted, mount it and run the same command again; it goes on."
        )


def _sha256(pieces: Sequence[memoryview]) -> str:
    """Digest of what is written: some bytes after each other."""
    total = sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def _size(pieces: Sequence[memoryview]) -> int:
    return sum(len(piece) for piece in pieces)


class BackgroundWriter:
    """Writes a unit in a thread while the next one is computed; one at a time.

    Used as a context: leaving it waits for the last unit, and raises what its writing raised.
    What it writes and the times it takes are added to `meters`.
    """

    def __init__(self, folder: Path, manifest: Manifest, meters: FillMeters) -> None:
        self._folder, self._manifest, self._meters = folder, manifest, meters
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="unit-writer")
        self._pending: Future[None] | None = None

    def submit(
        self,
        buffers: UnitBuffers,
        failed: Mapping[int, str],
        groups: Sequence[Sequence[int]] = (),
        computed: Computed | None = None,
    ) -> None:
        """Hand over a full unit; waits until the one before it is committed."""
        self._settle()
        self._pending = self._pool.submit(self._write, buffers, failed, groups, computed)

    def _write(
        self,
        buffers: UnitBuffers,
        failed: Mapping[int, str],
        groups: Sequence[Sequence[int]],
        computed: Computed | None,
    ) -> None:
        start = time.perf_counter()
        commit = write_unit(self._folder, self._manifest, buffers, failed, groups, computed)
        self._meters.write_seconds += time.perf_counter() - start
        if commit is not None:
            self._meters.bytes += commit.bytes
            self._meters.units += 1

    def _settle(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            start = time.perf_counter()
            try:
                pending.result()
            finally:
                self._meters.stall_seconds += time.perf_counter() - start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._settle()  # a stop keeps the unit that is being written
        except OSError:
            if kind is None:
                raise
        finally:
            self._pool.shutdown()
