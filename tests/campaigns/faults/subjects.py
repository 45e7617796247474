"""The commands that are disturbed, each on a small data set, and what must be equal afterwards."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reskd.common.cli.main import main as reskd
from tests.tiny_experiment import make_tiny_experiment


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One command in a folder of its own."""

    command: str
    """WORK stands for the folder."""
    prepare: Callable[[Path], None]
    """Makes what the command starts from; called once."""
    made: tuple[str, ...]
    """Files or folders below it that an undisturbed run decides to the byte."""

    also_right: frozenset[int] = frozenset()
    """Exit codes beside 0 and 5 that a fault may have."""

    def run(self, work: Path) -> int:
        """The command's exit code."""
        return reskd([part.replace("WORK", str(work)) for part in self.command.split()])


def _tiny(work: Path) -> None:
    make_tiny_experiment(work, videos_per_class=2, classes=2, views=2, num_frames=2)


def _cached(work: Path) -> None:
    _tiny(work)
    assert SUBJECTS["unit"].run(work) == 0


def _damaged(work: Path) -> None:
    _cached(work)
    shard = min(path for path in (work / "cache" / "features" / "c").rglob("*") if path.is_file())
    shard.write_bytes(bytes(shard.stat().st_size))


def _without_index(work: Path) -> None:
    _tiny(work)
    (work / "index.jsonl").unlink()
    for leftover in work.glob("index.jsonl.*"):
        leftover.unlink()


_ON_CPU: Final = "--threads 1 --device cpu"
_CACHE: Final = f"WORK/cache --experiment WORK/experiment.yaml {_ON_CPU}"

SUBJECTS: Final[Mapping[str, Subject]] = {
    "import": Subject(
        command="dataset import folder WORK/videos --out WORK/index.jsonl --decoder pyav --jobs 1",
        prepare=_without_index,
        made=("index.jsonl",),
    ),
    "unit": Subject(
        command=f"cache-teacher WORK/experiment.yaml --cache WORK/cache {_ON_CPU}",
        prepare=_tiny,
        made=("cache",),
    ),
    "frames": Subject(
        command="dataset extract-frames WORK/index.jsonl --out WORK/frames.h5 --jobs 1",
        prepare=_tiny,
        made=("frames.h5",),
    ),
    "checkpoint": Subject(
        command="train-teacher WORK/experiment.yaml --run WORK/run --device cpu "
        "-o teacher.training.epochs=1 -o teacher.training.workers=0",
        prepare=_tiny,
        made=("run/model.safetensors", "run/labels.json"),
    ),
    "extend": Subject(command=f"cache extend {_CACHE} --views 4", prepare=_cached, made=("cache",)),
    "repair": Subject(
        command=f"cache repair {_CACHE}",
        prepare=_damaged,
        made=("cache",),
        also_right=frozenset({4}),  # it verifies, and what cannot be read is a finding
    ),
}


def made_by(subject: Subject, work: Path) -> dict[str, bytes]:
    """Everything that the command decides, by its path."""
    found: dict[str, bytes] = {}
    for name in subject.made:
        top = work / name
        files = [top] if top.is_file() else sorted(top.rglob("*")) if top.is_dir() else []
        found |= {
            str(file.relative_to(work)): file.read_bytes() for file in files if file.is_file()
        }
    return found


def start_over(pristine: Path, work: Path) -> None:
    """Put a folder into the state that the command starts from."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work, symlinks=True)
