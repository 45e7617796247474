"""Open caches whose records are sealed and absurd: each must be refused, at once and in bounds.

    python -m tests.campaigns.records --json

The caches: those of tests/campaigns/hostile.py by name, and every part of a cache.json and of a
commit record replaced by absurd values. Each is asked by `cache verify` at both levels, `cache
info`, and a reader of all rows, in a process of its own that may take MEMORY_MB more than it has
and SECONDS. `lost` are named ones that verify does not find, `wrong` rows that were read otherwise
than written, `defects` those that ended with anything but 0, 4 or 5: also out of memory, or hung.
`neutral` parts (reasons, devices, names of classes) may hold anything and change no row.
"""

import json
import os
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click
import torch
from numpy.typing import NDArray

from reskd.common.console import emit
from reskd.common.storage.records import read_record
from reskd.teacher_cache.format.manifest import MANIFEST_FILE
from tests.campaigns.damage import make_cache_of_three_runs, quiet, read_against, read_all
from tests.campaigns.hostile import COMMIT, HOSTILE, mutations, seal
from tests.teacher_cache.handling import put_back, tree_of

Change = Callable[[Path], None]
Rows = Mapping[str, NDArray[Any]]
MEMORY_MB: Final = 200
SECONDS: Final = 5
_COMMANDS: Final = (("verify", "--level", "structure"), ("verify",), ("info",))


def caches(folder: Path) -> Iterator[tuple[str, bool, Change]]:
    """Name, whether verify must find it, and what makes it."""
    yield from ((name, True, change) for name, change in HOSTILE.items())
    for record in (MANIFEST_FILE, COMMIT):
        body = read_record(folder / record)
        for name, other in mutations(body):
            yield f"{record}: {name}", False, _sealed(record, other)


def _sealed(record: str, body: Mapping[str, Any]) -> Change:
    return lambda folder: seal(folder / record, body)


def asked(folder: Path, truth: Rows) -> dict[str, Any]:
    """What a process of its own gets to see of a cache."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _limit()
        found: dict[str, Any] = {
            " ".join(command): quiet("cache", command[0], folder, *command[1:])
            for command in _COMMANDS
        }
        found["rows"] = read_against(folder, truth)
        os.write(writing, json.dumps(found).encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = json.loads(said) if said else {}
    return {**found, "died": code} if code or not said else found


def _limit() -> None:
    """Of this process: a little more memory than it has, and few seconds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + (MEMORY_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS * len(_COMMANDS))


def is_defect(found: Mapping[str, Any]) -> bool:
    """Whether something ended otherwise than a damaged cache may end it."""
    codes = [found.get(" ".join(command)) for command in _COMMANDS]
    return (
        "died" in found
        or any(code not in (0, 4, 5) for code in codes)
        or str(found["rows"]).startswith("defect")
    )


def run_campaign(folder: Path, most: int | None = None) -> dict[str, Any]:
    """See the top of the file; `folder` is the cache, `most` bounds how many are tried."""
    tree, truth = tree_of(folder), read_all(folder)
    every = list(caches(folder))
    named, others = every[: len(HOSTILE)], every[len(HOSTILE) :]
    count = len(others) if most is None else min(len(others), max(0, most - len(named)))
    chosen = [*named[:most], *(others[n * len(others) // count] for n in range(count))]
    counts: Counter[str] = Counter()
    lost, wrong, defects, slowest = list[Any](), list[Any](), list[Any](), 0.0
    for name, must, change in chosen:
        change(folder)
        start = time.perf_counter()
        try:
            found = asked(folder, truth)
        finally:
            put_back(folder, tree)
        slowest = max(slowest, time.perf_counter() - start)
        code = found.get("verify")
        counts["found" if code == 4 else "neutral" if code == 0 else "other"] += 1
        if must and code != 4:
            lost.append({"cache": name, **found})
        if found.get("rows") == "wrong":
            wrong.append({"cache": name, **found})
        if is_defect(found):
            defects.append({"cache": name, **found})
    return {
        "tried": len(chosen),
        "named": sum(must for _, must, _ in chosen),
        **counts,
        "lost": lost,
        "wrong": wrong,
        "defects": defects,
        "memory_mb_at_most": MEMORY_MB,
        "slowest_seconds": slowest,
    }


def campaign_text(result: Mapping[str, Any]) -> str:
    """The result for a person."""
    counts = {kind: len(result[kind]) for kind in ("lost", "wrong", "defects")}
    lines = [
        (
            f"{result['tried']} caches, {result['named']} of them with a name: "
            f"{result['found']} found by verify, {counts['lost']} lost, {counts['wrong']} read "
            f"wrongly, {counts['defects']} defects; slowest {result['slowest_seconds']:.1f} s"
        )
    ]
    lines += [f"  {one}" for kind in ("lost", "wrong", "defects") for one in result[kind][:20]]
    return "\n".join(lines)


@click.command()
@click.option("--most", default=1000, show_default=True, help="Caches, named ones first.")
@click.option("--json", "as_json", is_flag=True)
def main(most: int, as_json: bool) -> None:
    """Open caches whose records are sealed and absurd."""
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    with tempfile.TemporaryDirectory() as folder:
        result = run_campaign(make_cache_of_three_runs(Path(folder)), most)
    emit(result, as_json=as_json, text=campaign_text(result))
    raise SystemExit(bool(result["lost"] or result["wrong"] or result["defects"]))


if __name__ == "__main__":
    main()
