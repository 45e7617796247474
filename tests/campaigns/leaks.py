"""Do the same again and again in one process: what stays behind?

    python -m tests.campaigns.leaks --rounds 40 --json

Each subject is repeated on a small experiment, some rounds first that do not count. Figures: open
files, threads, objects of Python and memory that were added by the rounds that do. What is opened
and never closed must be gone with the last name of it: every subject drops what it made.
"""

import contextlib
import ctypes
import gc
import io
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import torch

from reskd.common.cli.main import main as reskd
from reskd.common.console import aligned, emit, say
from reskd.common.dataset.index import read_index
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import TinyCache, make_tiny_cache, make_tiny_experiment

WARM_UP_ROUNDS: Final = 5
MOST_KB_PER_ROUND: Final = 200.0
"""Allocators keep some of what they were given."""

Subject = Callable[[TinyCache, Path], None]


def reader_dropped(cache: TinyCache, folder: Path) -> None:
    """A reader that reads every array and is never closed."""
    reader = CacheReader(cache.cache)
    videos = reader.usable_videos
    for array in reader.manifest.arrays:
        reader.gather(array.name, [0] * len(videos), videos, reader.empty(array.name, len(videos)))


def reader_not_finished(cache: TinyCache, folder: Path) -> None:
    """One that fails in between: a row that does not exist."""
    reader = CacheReader(cache.cache)
    name = reader.manifest.arrays[0].name
    with contextlib.suppress(Exception):
        reader.gather(name, [99], [0], reader.empty(name, 1))


def index_read(cache: TinyCache, folder: Path) -> None:
    """The index."""
    read_index(load_experiment(str(cache.experiment)).data.index)


def command(*words: str) -> Subject:
    """A command, with EXPERIMENT, CACHE, RUN and VIDEO for what it is about."""

    def run(cache: TinyCache, folder: Path) -> None:
        names = {
            "EXPERIMENT": str(cache.experiment),
            "CACHE": str(cache.cache),
            "RUN": str(folder / "run"),
            "VIDEO": str(next((cache.experiment.parent / "videos").rglob("*.mp4"))),
        }
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = reskd([names.get(word, word) for word in words])
        assert code == 0, f"{words} ended with {code}"

    return run


TRAIN: Final = ("train-student", "EXPERIMENT", "--cache", "CACHE", "--run", "RUN")
SUBJECTS: Final[dict[str, Subject]] = {
    "a reader, never closed": reader_dropped,
    "a reader that failed": reader_not_finished,
    "the index": index_read,
    "cache info": command("cache", "info", "CACHE"),
    "cache verify": command("cache", "verify", "CACHE"),
    "three epochs": command(*TRAIN, "--fresh"),
    "predict": command("predict", "RUN", "VIDEO"),
    "evaluate": command("evaluate", "RUN"),
}


def open_files() -> int:
    """Descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path of them is wanted


def memory_kb() -> int:
    """What it has in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.split("VmRSS:")[1].split()[0])


def state() -> tuple[int, int, int, int]:
    """Open files, threads, objects, memory in kB; garbage is gone, and what is free given back."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # of the GNU C library alone
        ctypes.CDLL(None).malloc_trim(0)
    return open_files(), threading.active_count(), len(gc.get_objects()), memory_kb()


def watch(subject: Subject, cache: TinyCache, folder: Path, rounds: int) -> dict[str, float]:
    """What so many rounds of a subject leave behind."""
    for _ in range(WARM_UP_ROUNDS):
        subject(cache, folder)
    before = state()
    for _ in range(rounds):
        subject(cache, folder)
    files, threads, objects, kb = (
        after - first for after, first in zip(state(), before, strict=True)
    )
    return {
        "files": files,
        "threads": threads,
        "objects_per_round": round(objects / rounds, 1),
        "kb_per_round": round(kb / rounds, 1),
    }


def leaks(found: dict[str, float]) -> bool:
    """Whether these figures are those of something that grows."""
    grows = found["files"] > 0 or found["threads"] > 0
    return grows or found["kb_per_round"] > MOST_KB_PER_ROUND


def run_campaign(folder: Path, rounds: int, subjects: dict[str, Subject]) -> dict[str, Any]:
    """See the top of the file."""
    torch.set_num_threads(1)
    experiment = make_tiny_experiment(folder / "tiny", epochs=3)
    cache = make_tiny_cache(experiment, folder / "cache")
    command(*TRAIN)(cache, folder)
    found = {}
    for name, subject in subjects.items():
        found[name] = watch(subject, cache, folder, rounds)
        say(f"{name}: {found[name]}")
    return {
        "rounds": rounds,
        "subjects": found,
        "leaking": [name for name, figures in found.items() if leaks(figures)],
    }


def campaign_text(result: dict[str, Any]) -> str:
    """The figures for a person."""
    rows = [["subject", "files", "threads", "objects a round", "kB a round"]]
    for name, found in result["subjects"].items():
        rows.append([name, *map(str, found.values())])
    return "\n".join([*aligned(rows), f"leaking: {', '.join(result['leaking']) or 'nothing'}"])


@click.command()
@click.option("--rounds", default=40, show_default=True, help="That count, of each subject.")
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, as_json: bool) -> None:
    """Repeat what opens files, starts threads and takes memory, and say what stays."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_campaign(Path(folder), rounds, SUBJECTS)
    emit(result, as_json=as_json, text=campaign_text(result))


if __name__ == "__main__":
    main()
