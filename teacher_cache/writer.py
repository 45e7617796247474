"""Make a cache, and add whole units to it: objects first, the commit record last."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import LocalStore

from common.atomic_write import PARTIAL_SUFFIX, atomic_write, sync_folder
from common.distill.arrays import ArraySpec, TargetPlan
from common.errors import StoppedShortError
from common.video.view_params import columns
from teacher_cache.commits import Commit, StoredObject, write_commit
from teacher_cache.identity import Identity
from teacher_cache.layout import Layout, object_key
from teacher_cache.manifest import Manifest, write_manifest
from teacher_cache.shard import ShardBuffer


def create_cache(folder: Path, *, identity: Identity, plan: TargetPlan, layout: Layout) -> None:
    """Make an empty cache: the Zarr group, its arrays and cache.json, all at once.

    Everything is written into a partial folder that is then renamed.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        group = zarr.create_group(LocalStore(partial), zarr_format=3)
        for array in plan.arrays:
            _create_array(group, array, layout)
        records = sorted(path.relative_to(partial) for path in partial.rglob("zarr.json"))
        manifest = Manifest(
            identity=identity,
            arrays=plan.arrays,
            teacher_grid=plan.teacher_grid,
            layout=layout,
            zarr_sha256={
                record.as_posix(): sha256((partial / record).read_bytes()).hexdigest()
                for record in records
            },
        )
        write_manifest(partial, manifest)
        partial.rename(folder)  # fails if there is something else in this place
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _create_array(group: zarr.Group, array: ArraySpec, layout: Layout) -> None:
    rows = (layout.num_views, layout.num_videos)
    group.create_array(
        array.name,
        shape=(*rows, *array.row_shape),
        dtype=array.dtype,
        chunks=(1, 1, *array.row_shape),
        shards=(layout.num_views, layout.unit_videos, *array.row_shape),
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=0,
        attributes={"columns": columns(array.row_shape[0] - 8)} if array.name == "views" else {},
        dimension_names=["view", "video", *(f"axis{i}" for i in range(len(array.row_shape)))],
    )


def write_unit(
    folder: Path,
    manifest: Manifest,
    unit: int,
    buffers: Mapping[str, ShardBuffer],
    failed: Mapping[int, str],
) -> Commit:
    """Write every object of a unit, then its commit record.

    Returns:
        The record.

    Raises:
        OSError: If the disk is full; the unit then does not exist, all others are untouched.
    """
    objects: dict[str, StoredObject] = {}
    for array in manifest.arrays:
        pieces = buffers[array.name].pieces()
        total = sha256()
        for piece in pieces:
            total.update(piece)
        key = object_key(array, unit)
        atomic_write(folder / key, pieces)
        objects[key] = StoredObject(bytes=sum(map(len, pieces)), sha256=total.hexdigest())
    videos = manifest.layout.videos_of(unit)
    commit = Commit(
        unit=unit,
        videos=(videos.start, videos.stop),
        views=(0, manifest.layout.num_views),
        objects=objects,
        failed=dict(failed),
    )
    write_commit(folder, commit)
    return commit


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a cache for this process, and clear what a killed writer left half-written.

    The lock is on the folder itself: it leaves no file behind and ends with the process.

    Raises:
        StoppedShortError: If another process is writing this cache.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoppedShortError(
                f"Another process is writing {folder}. Wait for it, or stop it and run the same "
                "command again; finished units are kept."
            ) from error
        for leftover in folder.rglob(f"*{PARTIAL_SUFFIX}"):
            leftover.unlink()
        yield
    finally:
        os.close(descriptor)


def empty_buffers(manifest: Manifest, unit: int) -> dict[str, ShardBuffer]:
    """One buffer per array for a unit that is about to be computed."""
    return {array.name: ShardBuffer(array, manifest.layout, unit) for array in manifest.arrays}
