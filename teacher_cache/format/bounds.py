"""What a cache.json may say: bounds of every number, and what must agree with what.

A record proves that nobody changed it by accident. A cache from somewhere else may be sealed and
absurd all the same: a million million views, arrays of zero bytes, runs that write the same rows
twice, names that lead out of the folder. So this is asked before anything is allocated or looped
over; the bounds lie far above any cache that makes sense.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from reskd.common.distill.arrays import ArraySpec
from reskd.teacher_cache.format.layout import Layout
from reskd.teacher_cache.format.row_checksums import is_table
from reskd.teacher_cache.format.videos import VideoTable, videos_key

MOST_VIEWS: Final = 100_000
MOST_VIDEOS: Final = 100_000_000
MOST_VIDEOS_WITHOUT_TABLE: Final = 1_000_000
"""Where no file has a line for every video."""
UNIT_VIDEOS: Final = 1 << 16
"""A unit may have places for so many videos, also where there are fewer."""
MOST_UNITS: Final = 100_000
MOST_RECORDS: Final = 200_000
"""Of all runs."""
MOST_OBJECTS: Final = 1_000_000
MOST_ROWS_OF_OBJECT: Final = 1 << 24
MOST_RUNS: Final = 1_000
MOST_ARRAYS: Final = 64
MOST_AXES: Final = 8
MOST_ROW_BYTES: Final = 1 << 34
MOST_GRID: Final = 1024
LEAST_VIDEO_BYTES: Final = 40
"""Of a line in a table of videos, which has at least five named fields."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DTYPES: Final = frozenset(
    {"uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32"}
)
_OF_TEACHER: Final[Mapping[str, tuple[int, frozenset[str]]]] = {
    "logits": (1, frozenset({"float16", "float32"})),
    "features": (4, frozenset({"float16", "float32", "int8"})),
    "feature_scale": (1, frozenset({"float16"})),
    "feature_residual": (0, frozenset({"float32"})),
    "logit_map": (4, frozenset({"float16", "float32"})),
    "logit_map_ids": (4, frozenset({"uint16"})),
    "logit_map_values": (4, frozenset({"float16", "float32"})),
    "logit_map_rest": (3, frozenset({"float16", "float32"})),
    "frames": (4, frozenset({"uint8"})),
    "views": (1, frozenset({"int32"})),
}
"""Axes of a row and number types of what a teacher's cache may hold (common/distill/targets.py)."""
_SECTIONS: Final = ("teacher", "clip", "views", "index", "decoder")


def _within(name: str, value: int, least: int, most: int) -> Iterator[str]:
    if not least <= value <= most:
        shown = str(value)
        shown = shown if len(shown) <= 20 else f"{shown[:3]}… of {len(shown)} digits"
        yield f"{name} is {shown}, and must be {least} to {most}"


def identity_problems(identity: Mapping[str, Any]) -> Iterator[str]:
    """Of the parts that are looked into here."""
    for name in _SECTIONS:
        if not isinstance(identity.get(name, {}), Mapping):
            yield f"identity.{name} is no object"
    model = identity.get("teacher", {}).get("model", {})
    if not isinstance(model, Mapping) or not isinstance(model.get("backbone_args", {}), Mapping):
        yield "identity.teacher.model is no model"
    classes = identity.get("index", {}).get("classes", [])
    if not isinstance(classes, list | tuple) or not all(isinstance(one, str) for one in classes):
        yield "identity.index.classes are no names"


def layout_problems(layout: Layout, *, with_tables: bool) -> Iterator[str]:
    """Of the numbers of views and videos; `with_tables` of videos, whose sizes bound them too."""
    most = MOST_VIDEOS if with_tables else MOST_VIDEOS_WITHOUT_TABLE
    yield from _within("layout.num_views", layout.num_views, 1, MOST_VIEWS)
    yield from _within("layout.block_views", layout.block_views, 1, layout.num_views)
    yield from _within("layout.num_videos", layout.num_videos, 1, most)
    most_of_unit = max(layout.num_videos, UNIT_VIDEOS)
    yield from _within("layout.unit_videos", layout.unit_videos, 1, most_of_unit)
    rows = layout.block_views * layout.unit_videos
    yield from _within("the rows of an object", rows, 1, MOST_ROWS_OF_OBJECT)
    yield from _within("layout.absent", len(layout.absent), 0, MOST_RUNS)
    before, unit_videos = 0, layout.unit_videos
    for start, stop in layout.absent:
        if not before < start < stop <= MOST_VIDEOS or stop % unit_videos:
            yield f"layout.absent has {start} to {stop}, which does not end a unit of {unit_videos}"
        if stop - start >= unit_videos:
            yield f"layout.absent has {start} to {stop}, more than a unit of {unit_videos} leaves"
        before = stop
    if before >= layout.extent:
        yield f"layout.absent ends at {before}, and no video comes after it"
    yield from _within("the number of units", layout.num_units, 1, MOST_UNITS)


def array_problems(
    arrays: Sequence[ArraySpec], teacher_grid: tuple[int, int], num_classes: int
) -> Iterator[str]:
    """Of names, shapes and types; num_classes is 0 where no names of classes are known."""
    names = [array.name for array in arrays]
    yield from _within("the number of arrays", len(names), 1, MOST_ARRAYS)
    if len(set(names)) < len(names):
        yield f"arrays names one twice: {', '.join(sorted(names))[:200]}"
    for array in arrays:
        yield from _array_problem(array)
    yield from _grid_problems(arrays, teacher_grid)
    logits = next((array.row_shape for array in arrays if array.name == "logits"), (num_classes,))
    if num_classes and logits != (num_classes,):
        yield f"array logits has rows of {logits} for {num_classes} classes"


def _array_problem(array: ArraySpec) -> Iterator[str]:
    name = array.name
    if not _NAME.fullmatch(name) or name == "commits" or is_table(array):
        yield f"an array cannot be called {name[:80]!r}"
    if array.dtype not in _DTYPES:
        yield f"array {name} has numbers of type {array.dtype[:40]!r}"
    yield from _within(f"array {name}: the number of axes", len(array.row_shape), 0, MOST_AXES)
    for size in array.row_shape:
        yield from _within(f"array {name}: an axis", size, 1, MOST_ROW_BYTES)
    yield from _within(f"array {name}: the bytes of a row", array.row_bytes, 1, MOST_ROW_BYTES)
    axes, dtypes = _OF_TEACHER.get(name, (len(array.row_shape), {array.dtype}))
    if len(array.row_shape) != axes or array.dtype not in dtypes:
        yield f"array {name} has {len(array.row_shape)} axes of {array.dtype}, and must have {axes}"


def _grid_problems(arrays: Sequence[ArraySpec], teacher: tuple[int, int]) -> Iterator[str]:
    for array in arrays:
        if array.name == "features":
            grid = array.row_shape[2:4]
        elif array.name.startswith("logit_map"):
            grid = array.row_shape[1:3]
        else:
            continue
        for stored, side in zip(grid, teacher, strict=True):
            yield from _within("a side of teacher_grid", side, 1, MOST_GRID)
            yield from _within(f"array {array.name}: a side of its grid", stored, 1, side)
        if array.attributes.get("teacher_grid", list(teacher)) != list(teacher):
            yield f"array {array.name} is of another teacher's grid than teacher_grid"


class WrittenBy(NamedTuple):
    """What a run writes."""

    number: int
    views: tuple[int, int]
    arrays: tuple[str, ...]
    units: range


def run_problems(
    layout: Layout, arrays: Sequence[ArraySpec], runs: Sequence[WrittenBy]
) -> Iterator[str]:
    """Of runs: together they write every row once."""
    names = {array.name for array in arrays}
    yield from _within("the number of runs", len(runs), 1, MOST_RUNS)
    for number, run in enumerate(runs, start=1):
        units, (start, stop) = run.units, run.views
        if run.number != number:
            yield f"run {number} calls itself {run.number}"
        if not run.arrays or len(set(run.arrays)) < len(run.arrays) or not names >= {*run.arrays}:
            yield f"run {number} writes no arrays, one twice, or one that the cache does not have"
        if not 0 <= start < stop <= layout.num_views or start % layout.block_views:
            yield f"run {number} writes views {start} to {stop} of {layout.num_views}"
        if stop % layout.block_views and stop != layout.num_views:
            yield f"run {number} ends inside a block of {layout.block_views} views"
        if not 0 <= units.start < units.stop <= layout.num_units:
            yield f"run {number} writes units {units.start} to {units.stop} of {layout.num_units}"
    records = sum(len(run.units) for run in runs)
    yield from _within("the records of all runs", records, 1, MOST_RECORDS)
    objects = sum(
        len(run.units) * len(layout.blocks_of(range(*run.views))) * len(run.arrays) for run in runs
    )
    yield from _within("the objects of all runs", objects, 1, MOST_OBJECTS)
    for name in sorted(names):
        if not _covered(layout, [run for run in runs if name in run.arrays]):
            yield f"the runs do not write every row of array {name} once"


def _covered(layout: Layout, runs: Sequence[WrittenBy]) -> bool:
    """Whether every view of every unit is written by one of some runs."""
    areas = [(*run.views, run.units.start, run.units.stop) for run in runs]
    first, last, begin, end = np.array(areas, np.int64).reshape(-1, 4).T
    apart = (first[:, None] >= last) | (last[:, None] <= first)
    apart |= (begin[:, None] >= end) | (end[:, None] <= begin)
    np.fill_diagonal(apart, val=True)
    written = int(((last - first) * (end - begin)).sum())
    return bool(apart.all()) and written == layout.num_views * layout.num_units


def video_problems(folder: Path, layout: Layout, tables: Sequence[VideoTable]) -> Iterator[str]:
    """Of the tables of videos; `folder` is the cache, whose files bound their rows."""
    absent, end = dict(layout.absent), 0
    yield from _within("the number of tables of videos", len(tables), 0, MOST_RUNS)
    for number, table in enumerate(tables, start=1):
        first, stop = table.rows
        if first != absent.get(end, end) or not first < stop <= layout.extent:
            yield f"table {number} of videos is of rows {first} to {stop} of {layout.extent}"
        end, path = stop, folder / videos_key(number)
        held = path.stat().st_size // LEAST_VIDEO_BYTES if path.is_file() else stop - first
        if stop - first > held:
            yield f"table {number} of videos has {stop - first} rows, and its file is too short"
    if tables and end != layout.extent:
        yield f"the tables of videos end at row {end} of {layout.extent}"


def digest_problems(
    stored: Sequence[ArraySpec], zarr_sha256: Mapping[str, str], tables: Sequence[VideoTable]
) -> Iterator[str]:
    """Of the hashes of files, and of the names of these."""
    if zarr_sha256.keys() != {"zarr.json", *(f"{array.name}/zarr.json" for array in stored)}:
        yield "zarr_sha256 does not name the files of the arrays"
    of_tables = (digest for table in tables for digest in (table.sha256, table.content))
    for digest in (*zarr_sha256.values(), *of_tables):
        if not _SHA256.fullmatch(digest):
            yield f"{digest[:80]!r} is no sha256"
