"""Damage a cache in every kind of file and way: is it found, and is a wrong row ever read?

    python -m tests.campaigns.damage --damages 500 --json

The cache is a small one of three runs: its own, one that added views, one that added a target. Each
trial damages it once (files of all kinds in turn, the way drawn from the seed), asks `cache verify`
at both levels, reads every row of every array, asks `cache info`, and puts all back. `lost` are
damages that level bytes does not find, `wrong` those after which a row was read that is not what
was written, `defects` those that ended a command otherwise than with 0 or 4.
"""

import io
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from reskd.common.cli.main import main as reskd
from reskd.common.console import emit
from reskd.common.errors import CacheError, StoppedShortError
from reskd.teacher_cache.format.row_checksums import TABLE
from reskd.teacher_cache.read.reader import CacheReader
from reskd.teacher_cache.verify.verify import verify_cache
from tests.teacher_cache.handling import extend, put_back, tree_of
from tests.tiny_experiment import make_tiny_cache, make_tiny_experiment

Tree = dict[str, bytes]
KINDS: Final[Mapping[str, Callable[[str], bool]]] = {
    "cache.json": lambda name: name == "cache.json",
    "zarr.json": lambda name: name.endswith("zarr.json"),
    "videos": lambda name: name.startswith("videos."),
    "commit": lambda name: name.startswith("commits/"),
    "rows": lambda name: "/c/" in name and not name.startswith(TABLE),
    "checksums": lambda name: "/c/" in name and name.startswith(TABLE),
}
"""Kinds of files in a cache, and which they are by their path."""


def flip(data: bytes, rng: Generator) -> bytes:
    """One bit."""
    changed = bytearray(data)
    changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def scramble(data: bytes, rng: Generator) -> bytes:
    """A run of bytes."""
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 65))
    return data[:start] + rng.bytes(len(data[start : start + length])) + data[start + length :]


def blank(data: bytes, rng: Generator) -> bytes:
    """Zeros from somewhere on, as after a power cut."""
    start = int(rng.integers(len(data)))
    return data[:start] + bytes(len(data) - start)


def cut(data: bytes, rng: Generator) -> bytes:
    """The end is missing, or all of it."""
    return data[: int(rng.integers(len(data)))]


def lengthen(data: bytes, rng: Generator) -> bytes:
    """Some bytes more."""
    return data + rng.bytes(int(rng.integers(1, 9)))


CHANGES: Final = (flip, scramble, blank, cut, lengthen)
"""Of one file's content."""
WAYS: Final = (*(change.__name__ for change in CHANGES), "swap", "copy", "remove", "stranger")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One damage and what became of it."""

    kind: str
    way: str
    path: str
    structure: bool
    """Whether level structure finds it."""
    found: bool
    """Whether level bytes finds it."""
    rows: str
    """Reading all rows: refused, equal to what was written, or wrong."""
    code: int
    """Exit code of `cache info`."""
    seconds: float


def damaged(tree: Tree, kind: str, rng: Generator) -> tuple[str, str, Tree]:
    """Way, path, and the files that are otherwise; no bytes stand for no file."""
    own = sorted(name for name in tree if KINDS[kind](name))
    while True:
        way, name = WAYS[int(rng.integers(len(WAYS)))], own[int(rng.integers(len(own)))]
        siblings = [other for other in own if tree[other] != tree[name]]
        changed: Tree = {}
        if way in ("swap", "copy") and siblings:
            other = _sibling(name, siblings, rng)
            changed = {name: tree[other]} | ({other: tree[name]} if way == "swap" else {})
        elif way == "remove" and name != "cache.json":  # then there is no cache
            changed = {name: b""}
        elif way == "stranger":
            changed = {f"{name}.{rng.bytes(2).hex()}": rng.bytes(8)}
        else:
            change = next((one for one in CHANGES if one.__name__ == way), None)
            changed = {} if change is None else {name: change(tree[name], rng)}
        if any(content != tree.get(path) for path, content in changed.items()):
            return way, name, changed


def _sibling(name: str, siblings: list[str], rng: Generator) -> str:
    """Another file of the same array, if there is one: it fits best."""
    near = [other for other in siblings if other.split("/")[0] == name.split("/")[0]]
    chosen = near or siblings
    return chosen[int(rng.integers(len(chosen)))]


def read_all(folder: Path) -> dict[str, NDArray[Any]]:
    """Every row of every array, (V, videos, *row_shape)."""
    with CacheReader(folder) as reader:
        reader.require_complete()
        views, videos = range(reader.manifest.layout.num_views), reader.usable_videos
        return {
            array.name: np.stack(
                [
                    reader.gather(
                        array.name,
                        [view] * len(videos),
                        videos,
                        reader.empty(array.name, len(videos)),
                    )
                    for view in views
                ]
            )
            for array in reader.manifest.arrays
        }


def read_against(folder: Path, truth: Mapping[str, NDArray[Any]]) -> str:
    """Whether reading is refused, or gives what was written, or something else."""
    try:
        found = read_all(folder)
    except (CacheError, StoppedShortError):
        return "refused"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the campaign looks for
        return f"defect: {type(error).__name__}: {error}"
    # Without one record of an extension the cache is as it was before it: with fewer views, arrays.
    same = all(np.array_equal(rows, truth[name][: len(rows)]) for name, rows in found.items())
    return "equal" if same else "wrong"


def quiet(*arguments: object) -> int:
    """Exit code of a command whose output does not matter."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return reskd([str(argument) for argument in arguments])


def try_one(
    folder: Path, tree: Tree, truth: Mapping[str, NDArray[Any]], kind: str, rng: Generator
) -> Trial:
    """Damage, ask, put back."""
    way, path, changed = damaged(tree, kind, rng)
    for name, content in changed.items():
        (folder / name).write_bytes(content)
        if way == "remove":
            (folder / name).unlink()
    start = time.perf_counter()
    try:
        with redirect_stderr(io.StringIO()):
            return Trial(
                kind=kind,
                way=way,
                path=path,
                structure=bool(verify_cache(folder, "structure").findings),
                found=bool(verify_cache(folder, "bytes").findings),
                rows=read_against(folder, truth),
                code=quiet("cache", "info", folder, "--json"),
                seconds=time.perf_counter() - start,
            )
    finally:
        put_back(folder, tree)


def make_cache_of_three_runs(folder: Path) -> Path:
    """The cache that is damaged."""
    cache = make_tiny_cache(make_tiny_experiment(folder / "tiny"), folder / "tiny" / "cache")
    extend(cache, views=6, targets=("logit_map",))
    return cache.cache


def run_campaign(folder: Path, damages: int, seed: int) -> dict[str, Any]:
    """See the top of the file; `folder` is the cache."""
    tree, truth = tree_of(folder), read_all(folder)
    quiet("cache", "info", folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kinds = list(KINDS)
    trials = [
        try_one(folder, tree, truth, kinds[n % len(kinds)], np.random.default_rng((seed, n)))
        for n in range(damages)
    ]
    if verify_cache(folder, "bytes").findings:
        raise RuntimeError("the cache was not put back")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    return {
        "damages": damages,
        "seed": seed,
        "tried": dict(Counter(f"{trial.kind} {trial.way}" for trial in trials)),
        "found": sum(trial.found for trial in trials),
        "found_by_structure": sum(trial.structure for trial in trials),
        "lost": [asdict(trial) for trial in trials if not trial.found],
        "rows": dict(Counter(trial.rows.split(":")[0] for trial in trials)),
        "wrong": [asdict(trial) for trial in trials if trial.rows == "wrong"],
        "defects": [
            asdict(trial)
            for trial in trials
            if trial.code not in (0, 4) or trial.rows.startswith("defect")
        ],
        "memory_mb": grown / 1024,
        "slowest_seconds": max(trial.seconds for trial in trials),
    }


def campaign_text(result: Mapping[str, Any]) -> str:
    """The result for a person."""
    return (
        f"{result['damages']} damages: {result['found']} found by level bytes, "
        f"{result['found_by_structure']} by structure, {len(result['lost'])} lost\n"
        f"rows after it: {result['rows']}; defects: {len(result['defects'])}\n"
        f"{result['memory_mb']:.0f} MB more in memory, slowest {result['slowest_seconds']:.2f} s"
    )


@click.command()
@click.option("--damages", default=500, show_default=True, help="Trials.")
@click.option("--seed", default=0, show_default=True, help="Of places and ways.")
@click.option("--json", "as_json", is_flag=True)
def main(damages: int, seed: int, as_json: bool) -> None:
    """Damage a cache in every kind of file and way, and see whether that is found."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_campaign(make_cache_of_three_runs(Path(folder)), damages, seed)
    emit(result, as_json=as_json, text=campaign_text(result))
    raise SystemExit(bool(result["lost"] or result["wrong"] or result["defects"]))


if __name__ == "__main__":
    main()
