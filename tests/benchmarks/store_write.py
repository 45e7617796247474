"""How fast units reach the disk, against plain files, and how much memory that takes.

    python -m tests.benchmarks.store_write --json

Units of about 100 MB, with the arrays of a real cache (int8 feature maps, their scales and
residuals, logits, the student's frames, views), 8 of them per round:

- ours: rows go into UnitBuffers, full units to BackgroundWriter, until the last is committed.
- write_unit: the writing alone. The buffers were filled before the clock was started.
- plain: the same bytes, joined beforehand, into as many plain files, each synced. One thread.

Ours makes a crc32c of every row, a sha256 of every object, two syncs and a rename per object and a
record per unit on top. Contenders take turns and are compared round by round; speeds in bytes per
second, so more is better for `A_over_plain`.

- ours_over_plain: target at least 0.8.
- write_unit_over_plain: the same without the time of `put`.
- stall_share: of the time of ours, what the caller waited for BackgroundWriter.
- put_share: of the time of ours, what `put` took.
- peak_units: memory of a fresh process that writes 8 units with ours, over what it had before the
  first, divided by the bytes of a unit. Target at most 3.
- sha256_over_plain: the speed of hashing alone, one thread: with two cores, twice this bounds ours.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from reskd.common.console import emit, in_lines
from reskd.common.distill.arrays import ArraySpec, Row, TargetPlan
from reskd.teacher_cache.fill.meters import FillMeters
from reskd.teacher_cache.fill.writer import BackgroundWriter, UnitBuffers, create_cache, write_unit
from reskd.teacher_cache.format.layout import Layout, commit_key
from reskd.teacher_cache.format.manifest import Manifest, read_manifest
from tests.benchmarks.timing import interleaved, load, ratio

ARRAYS = (
    ArraySpec(name="logits", row_shape=(200,), dtype="float16"),
    ArraySpec(name="features", row_shape=(8, 2048, 4, 4), dtype="int8"),
    ArraySpec(name="feature_scale", row_shape=(2048,), dtype="float16"),
    ArraySpec(name="feature_residual", row_shape=(), dtype="float32"),
    ArraySpec(name="frames", row_shape=(8, 3, 112, 112), dtype="uint8"),
    ArraySpec(name="views", row_shape=(16,), dtype="int32"),
)
NUM_VIEWS = 4
UNIT_VIDEOS = 44
"""Makes units of 100 MB."""
NUM_UNITS = 8
ROUNDS = 5
NUM_OUTPUTS = 8
"""Videos with rows of their own; a unit repeats them. More than a processor's cache holds."""

VideoRows = Mapping[str, Row]


def layout_of(*, units: int, unit_videos: int) -> Layout:
    """Full units only."""
    return Layout(
        num_views=NUM_VIEWS,
        block_views=NUM_VIEWS,
        num_videos=units * unit_videos,
        unit_videos=unit_videos,
    )


def made_up_rows() -> list[VideoRows]:
    """Made-up rows of some videos, per array (V, *row_shape)."""
    rng = np.random.default_rng(0)
    return [
        {
            array.name: np.frombuffer(rng.bytes(NUM_VIEWS * array.row_bytes), array.dtype).reshape(
                NUM_VIEWS, *array.row_shape
            )
            for array in ARRAYS
        }
        for _ in range(NUM_OUTPUTS)
    ]


def empty_cache(folder: Path, layout: Layout) -> Manifest:
    """A cache without units."""
    plan = TargetPlan(arrays=ARRAYS, teacher_grid=(7, 7), feature_grid=(4, 4), student_size=112)
    create_cache(folder, identity={"benchmark": "store_write"}, plan=plan, layout=layout)
    return read_manifest(folder)


def filled(manifest: Manifest, unit: int, rows: list[VideoRows]) -> UnitBuffers:
    """A full unit."""
    buffers = UnitBuffers(manifest, manifest.generations[0], unit)
    for place in range(manifest.layout.unit_videos):
        buffers.put(place, rows[place % len(rows)])
    return buffers


def write_ours(folder: Path, manifest: Manifest, rows: list[VideoRows]) -> dict[str, float]:
    """Fill and write all units, one being filled while the one before is written.

    Returns:
        Shares of the time: `put_share` and `stall_share`.
    """
    start, put_seconds, meters = time.perf_counter(), 0.0, FillMeters()
    with BackgroundWriter(folder, manifest, meters) as writer:
        for unit in range(manifest.layout.num_units):
            before = time.perf_counter()
            buffers = filled(manifest, unit, rows)
            put_seconds += time.perf_counter() - before
            writer.submit(buffers, {})
    total = time.perf_counter() - start
    return {"put_share": put_seconds / total, "stall_share": meters.stall_seconds / total}


def write_full(folder: Path, manifest: Manifest, units: list[UnitBuffers]) -> None:
    """Write units that are full already, one after another."""
    for buffers in units:
        (folder / commit_key(buffers.generation.number, buffers.unit)).unlink(missing_ok=True)
        write_unit(folder, manifest, buffers, {})


def write_plain(folder: Path, units: list[UnitBuffers]) -> None:
    """The same bytes in the same number of files, each synced."""
    for buffers in units:
        objects = [one for blocks in buffers.objects.values() for one in blocks.values()]
        for number, one in enumerate(objects):
            with (folder / f"{buffers.unit}.{number}").open("wb") as file:
                for piece in one.pieces():
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())


def hash_all(units: list[UnitBuffers]) -> None:
    """The sha256 of the same bytes."""
    for buffers in units:
        for blocks in buffers.objects.values():
            for one in blocks.values():
                total = sha256()
                for piece in one.pieces():
                    total.update(piece)


def compare(folder: Path, *, units: int, unit_videos: int, rounds: int) -> dict[str, float]:
    """Write all units again and again, in turns.

    Returns:
        The ratios and shares, and the megabytes per second of every contender.
    """
    layout, rows = layout_of(units=units, unit_videos=unit_videos), made_up_rows()
    manifest = empty_cache(folder / "first", layout)
    full = [filled(manifest, unit, rows) for unit in range(units)]
    shares: list[dict[str, float]] = []
    target = folder / "target"

    def fresh() -> Path:
        shutil.rmtree(target, ignore_errors=True)
        empty_cache(target, layout)
        return target

    contenders: dict[str, Callable[[Path], None]] = {
        "ours": lambda path: shares.append(write_ours(path, manifest, rows)),
        "write_unit": lambda path: write_full(path, manifest, full),
        "plain": lambda path: write_plain(path, full),
        "sha256": lambda _: hash_all(full),
    }
    seconds = interleaved(contenders, fresh, rounds=rounds)
    megabytes = manifest.generation_bytes(manifest.generations[0]) / 1e6
    return {
        "ours_over_plain": ratio(seconds, "plain", "ours"),
        "write_unit_over_plain": ratio(seconds, "plain", "write_unit"),
        "sha256_over_plain": ratio(seconds, "plain", "sha256"),
        **{name: median(share[name] for share in shares) for name in shares[0]},
        **{f"{name}_mb_per_s": megabytes / median(taken) for name, taken in seconds.items()},
        "unit_mb": megabytes / units,
    }


def peak_units(folder: Path, *, units: int, unit_videos: int) -> float:
    """Memory that writing takes, in units; measured in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from tests.benchmarks import store_write as b; "
        "print(b.peak_here(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(units), str(unit_videos)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def peak_here(folder: Path, units: int, unit_videos: int) -> float:
    """The same in this process, whose memory must not have been larger before."""
    layout, rows = layout_of(units=units, unit_videos=unit_videos), made_up_rows()
    manifest = empty_cache(folder, layout)
    before = _peak_bytes()
    write_ours(folder, manifest, rows)
    return (_peak_bytes() - before) / manifest.generation_bytes(manifest.generations[0], 0)


def _peak_bytes() -> int:
    """Largest resident memory so far. Unlike ru_maxrss it does not include the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmHWM"].split()[0]) << 10


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Compare the writer of stage one with plain files."""
    before = load()
    with TemporaryDirectory(prefix="bench-write-") as folder:
        sizes = {"units": NUM_UNITS, "unit_videos": UNIT_VIDEOS}
        result: dict[str, Any] = {
            **compare(Path(folder), **sizes, rounds=ROUNDS),
            "peak_units": peak_units(Path(folder) / "peak", **sizes),
            "load": [before, load()],
        }
    lines = [f"{name:<24}{value}" for name, value in result.items()]
    emit(result, as_json=as_json, text=in_lines(*lines))


if __name__ == "__main__":
    main()
