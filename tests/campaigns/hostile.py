"""Caches from a stranger: sealed, each record as it should be, and absurd."""

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np

from reskd.common.storage.records import HASH_FIELD, digest, read_record, write_record
from reskd.teacher_cache.format.layout import CRC_BYTES, commit_key, object_key
from reskd.teacher_cache.format.manifest import MANIFEST_FILE, read_manifest
from reskd.teacher_cache.format.shard import crc32c

Place = tuple[str | int, ...]
HOSTILE_NUMBERS: Final = (-1, 0, 1, 7, 10**6, 10**12, 2**63 - 1, 2**63, 10**400, 0.5, True)
HOSTILE_OTHERS: Final[tuple[Any, ...]] = (
    None,
    "",
    "../../outside",
    "x" * 10_000,
    [],
    {},
    [[]],
    [0, 0],
)
COMMIT: Final = commit_key(1, 0)


def places(value: Any, before: Place = ()) -> Iterator[Place]:
    """Where every part of a JSON value is."""
    if before:
        yield before
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for key, part in parts:
        yield from places(part, (*before, key))


def changed(body: Mapping[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A record with another value in one place."""
    copy: dict[str, Any] = deepcopy(dict(body))
    node: Any = copy
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return copy


def part_of(body: Mapping[str, Any], place: Place) -> Any:
    """What is in a place of a record."""
    node: Any = body
    for key in place:
        node = node[key]
    return node


def mutations(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a record replaced by absurd ones; lists doubled as well."""
    for place in places(body):
        part = part_of(body, place)
        values = [*HOSTILE_NUMBERS, *HOSTILE_OTHERS]
        if isinstance(part, list):
            values.append(part + part)
        for value in values:
            if value != part or isinstance(value, bool) != isinstance(part, bool):
                name = ".".join(map(str, place))
                yield f"{name} = {json.dumps(value)[:40]}", changed(body, place, value)


def seal(path: Path, body: Mapping[str, Any]) -> None:
    """Write a record with the seal that fits it."""
    write_record(path, {key: part for key, part in body.items() if key != HASH_FIELD})


def _contents(*keys: str | int, value: Any) -> Callable[[Path], None]:
    def change(cache: Path) -> None:
        path = cache / MANIFEST_FILE
        seal(path, changed(read_record(path), ("contents", *keys), value))

    return change


def _identity(*keys: str | int, value: Any) -> Callable[[Path], None]:
    """Of all records: commits name the fingerprint."""

    def change(cache: Path) -> None:
        path = cache / MANIFEST_FILE
        body = changed(read_record(path), ("identity", *keys), value)
        seal(path, body)
        for record in (cache / "commits").iterdir():
            seal(record, {**read_record(record), "fingerprint": digest(body["identity"])})

    return change


def _commit(*keys: str | int, value: Any) -> Callable[[Path], None]:
    def change(cache: Path) -> None:
        seal(cache / COMMIT, changed(read_record(cache / COMMIT), keys, value))

    return change


def _doubled(*keys: str | int) -> Callable[[Path], None]:
    def change(cache: Path) -> None:
        body = read_record(cache / MANIFEST_FILE)
        part = part_of(body, ("contents", *keys))
        seal(cache / MANIFEST_FILE, changed(body, ("contents", *keys), part + part))

    return change


def many_views(cache: Path) -> None:
    """A million million views, wherever a record speaks of views."""
    path = cache / MANIFEST_FILE
    body = read_record(path)
    body["contents"]["layout"] |= {"num_views": 10**12, "block_views": 10**12}
    for run in body["contents"]["generations"]:
        run["views"] = [0, 10**12]
    seal(path, body)
    for record in (cache / "commits").iterdir():
        seal(record, {**read_record(record), "views": [0, 10**12]})


def _object(change: Callable[[bytearray, int], None]) -> Callable[[Path], None]:
    """Change the object of array features in unit 0, with every checksum above it made anew."""

    def on(cache: Path) -> None:
        manifest = read_manifest(cache)
        key = object_key(manifest.array("features"), 0, 0)
        data = bytearray((cache / key).read_bytes())
        change(data, manifest.layout.index_bytes())
        (cache / key).write_bytes(data)
        body = read_record(cache / COMMIT)
        body["objects"][key] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
        seal(cache / COMMIT, body)

    return on


def _index_entry(offset: int, length: int) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, index_bytes: int) -> None:
        entry = np.array([offset, length], "<u8").tobytes()
        data[-index_bytes : -index_bytes + len(entry)] = entry
        body = bytes(data[-index_bytes:-CRC_BYTES])
        data[-CRC_BYTES:] = crc32c(body).to_bytes(CRC_BYTES, "little")

    return change


def _other_row(data: bytearray, index_bytes: int) -> None:
    """Another number in the first row; the table of checksums still has the former one's."""
    del index_bytes
    data[0] ^= 1


def _longer(data: bytearray, index_bytes: int) -> None:
    del index_bytes
    data[:0] = bytes(8)


HOSTILE: Final[Mapping[str, Callable[[Path], None]]] = {
    "a million million views": _contents("layout", "num_views", value=10**12),
    "a million million views everywhere": many_views,
    "10^400 views": _contents("layout", "num_views", value=10**400),
    "2^63 views": _contents("layout", "num_views", value=2**63),
    "no views": _contents("layout", "num_views", value=0),
    "blocks of no views": _contents("layout", "block_views", value=0),
    "blocks of -1 views": _contents("layout", "block_views", value=-1),
    "a million million videos": _contents("layout", "num_videos", value=10**12),
    "units of no videos": _contents("layout", "unit_videos", value=0),
    "units of a million million videos": _contents("layout", "unit_videos", value=10**12),
    "absent videos before the first": _contents("layout", "absent", value=[[-8, 0]]),
    "a million million absent videos": _contents("layout", "absent", value=[[1, 10**12]]),
    "arrays doubled": _doubled("arrays"),
    "runs doubled": _doubled("generations"),
    "videos doubled": _doubled("videos"),
    "classes doubled": _doubled("classes"),
    "no arrays": _contents("arrays", value=[]),
    "no runs": _contents("generations", value=[]),
    "run 2^63": _contents("generations", 0, "number", value=2**63),
    "a run of no arrays": _contents("generations", 0, "arrays", value=[]),
    "a run of unknown arrays": _contents("generations", 0, "arrays", value=["nothing"]),
    "a run of views backwards": _contents("generations", 0, "views", value=[3, 0]),
    "a run of too many units": _contents("generations", 0, "units", value=[0, 10**12]),
    "grid 0x0": _contents("teacher_grid", value=[0, 0]),
    "grid of a million million": _contents("teacher_grid", value=[10**12, 10**12]),
    "numbers of no type": _contents("arrays", 0, "dtype", value="float1024"),
    "numbers that are objects": _contents("arrays", 0, "dtype", value="object"),
    "numbers that are texts": _contents("arrays", 0, "dtype", value="U1000000000"),
    "rows of no bytes": _contents("arrays", 0, "row_shape", value=[0]),
    "rows of -1": _contents("arrays", 0, "row_shape", value=[-1]),
    "rows of 2^80 bytes": _contents("arrays", 0, "row_shape", value=[2**40, 2**40]),
    "rows of a thousand axes": _contents("arrays", 0, "row_shape", value=[1] * 1000),
    "an array outside": _contents("arrays", 0, "name", value="../../outside"),
    "an array called commits": _contents("arrays", 0, "name", value="commits"),
    "an array called row_checksums": _contents("arrays", 0, "name", value="row_checksums"),
    "a hash of a file outside": _contents("zarr_sha256", value={"../../x": "0" * 64}),
    "another codec": _contents("codec", value="zstd"),
    "no row_checksums": _contents("row_checksums", value=False),
    "too many rows in a table": _contents("videos", 0, "rows", value=[0, 10**12]),
    "a table of videos from 5 on": _contents("videos", 0, "rows", value=[5, 9]),
    "a teacher that is a list": _identity("teacher", value=[]),
    "a model that is a number": _identity("teacher", "model", value=7),
    "an index that is nothing": _identity("index", value=None),
    "objects of 2^63 bytes": _commit(
        "objects", "logits/c/0/0/0", value={"bytes": 2**63, "sha256": "0" * 64}
    ),
    "no objects": _commit("objects", value={}),
    "an object outside": _commit("objects", "../../x", value={"bytes": 1, "sha256": "0" * 64}),
    "unreadable videos that are not there": _commit("failed", value={str(10**12): "no"}),
    "a million million clips at once": _commit("computed", "batch_clips", value=10**12),
    "no clips at once": _commit("computed", "batch_clips", value=0),
    "-1 threads": _commit("computed", "torch_threads", value=-1),
    "groups of other videos": _commit("groups", value=[[0, 10**12]]),
    "videos of another unit": _commit("videos", value=[1, 2]),
    "a record of another unit": _commit("unit", value=3),
    "a record of another run": _commit("generation", value=2),
    "an offset of 2^63": _object(_index_entry(2**63, 28)),
    "an offset past the end": _object(_index_entry(10**9, 28)),
    "a row of 2^63 bytes": _object(_index_entry(0, 2**63)),
    "a row of no bytes": _object(_index_entry(0, 0)),
    "a row with another number": _object(_other_row),
    "an object with more in it": _object(_longer),
}
"""Each makes a cache of tests/campaigns/damage.py another one; all must be found by `verify`."""
