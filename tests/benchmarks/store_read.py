"""How fast random rows come out of the store, against the raw system call and other stores.

    python -m tests.benchmarks.store_read --json

The same 64 random rows a batch, of 4 KB, 256 KB and 1 MB, page cache warm, into a reused buffer:

- ours, ours_crc: CacheReader.gather on a cache made by the real writer, without and with checking
  every row's crc32c against the one of its place (with is the default).
- ours_own_crc: the same against the one behind the row, as in caches without row_checksums.
- pread: os.preadv of the same rows of the same, already open files in a plain loop of one thread.
  Nothing in Python that copies out of the page cache by system calls is cheaper.
- zarr: zarr-python row by row, z[view, video], on the same cache.
- lmdb: one key per row, one read transaction per batch, copied out of the map. Checks nothing.
- h5py: one dataset with a chunk per row, read_direct row by row. Checks nothing.

Contenders take turns, each turn with rows of its own (those that another has just read would come
from the processor's cache), and are compared turn by turn. `A_over_B` is the time of A over that
of B; where ours is on the right it is the one with checksums.

Targets: ours_over_pread at most 1.25 and ours_crc_over_pread at most 1.6, at 4 KB 1.5 and 2.0;
bound_over_own_crc at most 1.03;
zarr_over_ours at least 3 at 256 KB; lmdb_over_ours and h5py_over_ours at least 1.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import h5py
import numpy as np
from numpy.typing import NDArray

from reskd.common.console import emit, in_lines
from reskd.common.distill.arrays import ArraySpec, TargetPlan
from reskd.teacher_cache.fill.writer import UnitBuffers, create_cache, write_unit
from reskd.teacher_cache.format.layout import CRC_BYTES, Layout, object_key
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from reskd.teacher_cache.read.reader import CacheReader
from tests.benchmarks.timing import Seconds, interleaved, load, ratio

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Gather = Callable[[Numbers, Numbers, Bytes], object]
"""Puts the rows of some views and videos into a buffer."""

ARRAY = "rows"
RATIOS = {
    "ours_over_pread": ("ours", "pread"),
    "ours_crc_over_pread": ("ours_crc", "pread"),
    "bound_over_own_crc": ("ours_crc", "ours_own_crc"),
    "zarr_over_ours": ("zarr", "ours_crc"),
    "lmdb_over_ours": ("lmdb", "ours_crc"),
    "h5py_over_ours": ("h5py", "ours_crc"),
    "lmdb_over_ours_unchecked": ("lmdb", "ours"),
    "h5py_over_ours_unchecked": ("h5py", "ours"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row size. The store must be larger than the processor's last cache."""

    row_bytes: int
    layout: Layout
    batch: int = 64
    """Rows per gather."""
    gathers: int
    """Gathers per turn: a turn is long against the clock and short against a time slice."""
    rounds: int

    @property
    def num_rows(self) -> int:
        """Rows of the store."""
        return self.layout.num_views * self.layout.num_videos


def _layout(num_videos: int, unit_videos: int) -> Layout:
    return Layout(num_views=4, block_views=4, num_videos=num_videos, unit_videos=unit_videos)


CASES: Mapping[str, Case] = {
    "4KB": Case(row_bytes=4 << 10, layout=_layout(8192, 512), gathers=4, rounds=201),
    "256KB": Case(row_bytes=256 << 10, layout=_layout(512, 64), gathers=1, rounds=41),
    "1MB": Case(row_bytes=1 << 20, layout=_layout(128, 16), gathers=1, rounds=21),
}


def content(case: Case, unit: int) -> Bytes:
    """What every store holds of a unit: (V, videos, row_bytes)."""
    videos = len(case.layout.videos_of(unit))
    shape = (case.layout.num_views, videos, case.row_bytes)
    return np.random.default_rng(unit).integers(0, 256, shape, np.uint8)


def write_cache(folder: Path, case: Case) -> Manifest:
    """The rows in a cache of ours."""
    array = ArraySpec(name=ARRAY, row_shape=(case.row_bytes,), dtype="uint8")
    plan = TargetPlan(arrays=(array,), teacher_grid=(1, 1), feature_grid=(1, 1), student_size=0)
    create_cache(folder, identity={"benchmark": "store_read"}, plan=plan, layout=case.layout)
    manifest = read_manifest(folder)
    for unit in range(case.layout.num_units):
        buffers = UnitBuffers(manifest, manifest.generations[0], unit)
        rows = content(case, unit)
        for place in range(rows.shape[1]):
            buffers.put(place, {ARRAY: rows[:, place]})
        write_unit(folder, manifest, buffers, {})
    return manifest


@contextmanager
def raw_gather(folder: Path, case: Case, manifest: Manifest) -> Iterator[Gather]:
    """One preadv per row, its place worked out beforehand, nothing checked."""
    layout, width = case.layout, case.row_bytes
    array = manifest.array(ARRAY)
    files = [
        os.open(folder / object_key(array, 0, unit), os.O_RDONLY)
        for unit in range(layout.num_units)
    ]

    def place(view: int, video: int) -> tuple[int, int]:
        unit, within = layout.locate(video)
        before = view * len(layout.videos_of(unit)) + within
        return files[unit], before * (width + CRC_BYTES)

    places = [
        [place(view, video) for video in range(layout.num_videos)]
        for view in range(layout.num_views)
    ]

    def gather(views: Numbers, videos: Numbers, out: Bytes) -> None:
        flat, start = out.reshape(-1).data, 0
        for view, video in zip(views.tolist(), videos.tolist(), strict=True):
            file, offset = places[view][video]
            os.preadv(file, (flat[start : start + width],), offset)
            start += width

    try:
        yield gather
    finally:
        for file in files:
            os.close(file)


def our_gather(folder: Path, *, checksums: bool, bound: bool = True) -> Gather:
    """Through the reader that training uses; not bound, as if the cache had no row_checksums."""
    reader = CacheReader(folder, checksums=checksums)
    reader.manifest = replace(reader.manifest, row_checksums=bound)
    return lambda views, videos, out: reader.gather(ARRAY, views, videos, out)


def zarr_gather(folder: Path) -> Gather:
    """The same cache through zarr-python."""
    import zarr

    opened: Any = zarr.open_array(folder / ARRAY, mode="r")

    def gather(views: Numbers, videos: Numbers, out: Bytes) -> None:
        for row, (view, video) in enumerate(zip(views.tolist(), videos.tolist(), strict=True)):
            out[row] = opened[view, video]

    return gather


@contextmanager
def lmdb_gather(path: Path, case: Case) -> Iterator[Gather]:
    """The same rows in LMDB, keyed by (view, video)."""
    import lmdb

    width = case.row_bytes
    space = 2 * case.num_rows * (width + 4096)  # of the map, not of the disk
    with lmdb.open(str(path), map_size=space) as store:
        for unit in range(case.layout.num_units):
            rows = content(case, unit)
            with store.begin(write=True) as write:
                for place, video in enumerate(case.layout.videos_of(unit)):
                    for view in range(case.layout.num_views):
                        write.put(_key(view, video), rows[view, place].tobytes())
    with lmdb.open(str(path), map_size=space, readonly=True, lock=False) as store:

        def gather(views: Numbers, videos: Numbers, out: Bytes) -> None:
            flat, start = out.reshape(-1).data, 0
            with store.begin(buffers=True) as read:
                for view, video in zip(views.tolist(), videos.tolist(), strict=True):
                    flat[start : start + width] = read.get(_key(view, video), b"")
                    start += width

        yield gather


def _key(view: int, video: int) -> bytes:
    return (view << 32 | video).to_bytes(8, "big")


@contextmanager
def h5py_gather(path: Path, case: Case) -> Iterator[Gather]:
    """The same rows in HDF5, (V, N, row_bytes)."""
    layout = case.layout
    with h5py.File(path, "w") as file:
        rows = file.create_dataset(
            ARRAY,
            (layout.num_views, layout.num_videos, case.row_bytes),
            np.uint8,
            chunks=(1, 1, case.row_bytes),
        )
        for unit in range(layout.num_units):
            videos = layout.videos_of(unit)
            rows[:, videos.start : videos.stop] = content(case, unit)
    with h5py.File(path, "r") as file:
        opened = file[ARRAY]

        def gather(views: Numbers, videos: Numbers, out: Bytes) -> None:
            for row, (view, video) in enumerate(zip(views.tolist(), videos.tolist(), strict=True)):
                opened.read_direct(out, np.s_[view, video], np.s_[row])

        yield gather


def compare(folder: Path, case: Case) -> dict[str, float]:
    """Write all stores into a folder and time them.

    Returns:
        The ratios, and microseconds per row of every contender.
    """
    manifest = write_cache(folder / "cache", case)
    with (
        raw_gather(folder / "cache", case, manifest) as from_files,
        lmdb_gather(folder / "lmdb", case) as from_lmdb,
        h5py_gather(folder / "rows.h5", case) as from_h5py,
    ):
        contenders: dict[str, Gather] = {
            "pread": from_files,
            "ours": our_gather(folder / "cache", checksums=False),
            "ours_crc": our_gather(folder / "cache", checksums=True),
            "ours_own_crc": our_gather(folder / "cache", checksums=True, bound=False),
            "zarr": zarr_gather(folder / "cache"),
            "lmdb": from_lmdb,
            "h5py": from_h5py,
        }
        require_equal(contenders, case)
        fast = {name: gather for name, gather in contenders.items() if name != "zarr"}
        seconds = _timed(fast, case, case.rounds, case.gathers)
        # One row through zarr takes as long as a whole batch of small rows through the others.
        slow = _timed({name: contenders[name] for name in ("zarr", "ours_crc")}, case, 7, 1)
    rows = case.batch * case.gathers
    return {
        **{
            name: ratio(slow if "zarr" in pair else seconds, *pair) for name, pair in RATIOS.items()
        },
        **{f"{name}_us": median(taken) / rows * 1e6 for name, taken in seconds.items()},
        "zarr_us": median(slow["zarr"]) / case.batch * 1e6,
    }


def require_equal(contenders: Mapping[str, Gather], case: Case) -> None:
    """Read every row through every contender once: they must agree, and all is then warm.

    Of zarr-python, which takes minutes for all, only the first batch.
    """
    whole = np.concatenate([content(case, unit) for unit in range(case.layout.num_units)], axis=1)
    out = np.empty((case.batch, case.row_bytes), np.uint8)
    for start in range(0, case.num_rows, case.batch):
        views, videos = np.divmod(
            np.arange(start, min(start + case.batch, case.num_rows)), case.layout.num_videos
        )
        for name, gather in contenders.items():
            if name == "zarr" and start:
                continue
            part = out[: len(views)]
            part.fill(0)
            gather(views, videos, part)
            assert np.array_equal(part, whole[views, videos]), f"{name} reads other bytes"


def _timed(contenders: Mapping[str, Gather], case: Case, rounds: int, gathers: int) -> Seconds:
    rng = np.random.default_rng(0)
    layout = case.layout
    out = np.empty((case.batch, case.row_bytes), np.uint8)

    def draw() -> list[tuple[Numbers, Numbers]]:
        return [
            (rng.integers(layout.num_views, size=case.batch), numbers)
            for numbers in rng.integers(layout.num_videos, size=(gathers, case.batch))
        ]

    def turn(gather: Gather) -> Callable[[list[tuple[Numbers, Numbers]]], None]:
        def run(batches: list[tuple[Numbers, Numbers]]) -> None:
            for views, videos in batches:
                gather(views, videos, out)

        return run

    turns = {name: turn(gather) for name, gather in contenders.items()}
    return interleaved(turns, draw, rounds=rounds, warmups=2)


def as_table(result: Mapping[str, Any]) -> str:
    """The ratios of every row size, one line each."""
    lines = [f"{'':<6}" + "".join(f"{name:>26}" for name in RATIOS)]
    lines += [
        f"{size:<6}" + "".join(f"{result[size][name]:>26.2f}" for name in RATIOS) for size in CASES
    ]
    return in_lines(*lines, f"load {result['load'][0]:.1f} to {result['load'][1]:.1f}")


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Compare the reader with preadv, zarr-python, LMDB and h5py."""
    before = load()
    result: dict[str, Any] = {}
    for size, case in CASES.items():
        with TemporaryDirectory(prefix="bench-read-") as folder:
            result[size] = compare(Path(folder), case)
    result["load"] = [before, load()]
    emit(result, as_json=as_json, text=as_table(result))


if __name__ == "__main__":
    main()
