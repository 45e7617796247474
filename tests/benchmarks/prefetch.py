"""What reading ahead of the training step hides.

    python -m tests.benchmarks.prefetch --json

The same batches pass through the same small student (timm's test_resnet, forward and backward,
nothing else: behind a larger one all the more would hide), and what brings them takes turns:

- store: rows of int8 features of a ResNet-152 and frames, through rings of 2 slots (the batch in
  use and the one before it: nothing is read ahead), 3 and 4 (what training has). `warm`: the files
  are in memory; `cold`: the system was asked to forget them before every turn.
- video: frames decoded from 10 s of H.264, in the training process (`0`) and by 1 and 2 workers.

Every figure is a ratio of seconds: the epoch over one whose batches lie in memory. 1 means that the
step never waited.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch import Tensor

from reskd.common.console import emit, in_lines
from reskd.common.dataset.index import read_index
from reskd.common.experiment import Experiment, ModelSpec
from reskd.common.experiment.load import load_experiment
from reskd.common.models.registry import build_model
from reskd.student_train.data.decoded_frames import DecodedFrames, LoadedBatch
from reskd.student_train.data.order import cut_batches
from reskd.student_train.data.read_ahead import KEPT, SLOTS, SlotRing
from reskd.teacher_cache.noise import write_noise_cache
from reskd.teacher_cache.read.reader import CacheReader
from tests.benchmarks.decode_once import FPS, SECONDS
from tests.benchmarks.epoch_overhead import BATCH, CPU, make_experiment
from tests.benchmarks.timing import interleaved, load, ratio

ARRAYS = ("frames", "features", "feature_scale", "feature_residual")
RINGS = tuple(range(KEPT + 1, SLOTS + 1))
WORKERS = (0, 1, 2)
IN_MEMORY = "memory"
STUDENT = "test_resnet"


def forget(folder: Path) -> None:
    """Ask the system to drop the files of a folder from memory; they must be on disk already."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


class Student:
    """A network whose steps take what time they take."""

    def __init__(self, backbone: str) -> None:
        self._model = build_model(ModelSpec(backbone=backbone), num_classes=2).train()

    def step(self, frames_BT3HW: Tensor) -> None:
        """Forward, backward."""
        self._model.zero_grad(set_to_none=True)
        self._model(self._model.normalize(frames_BT3HW)).logits_BK.sum().backward()


def from_store(
    cache: Path, student: Student, *, epochs: int, rounds: int, cold: bool
) -> dict[str, float]:
    """Each ring's seconds over those of batches in memory."""
    reader = CacheReader(cache)
    batches = [LoadedBatch(videos) for videos in cut_batches(reader.usable_videos, BATCH)] * epochs
    frames = torch.from_numpy(reader.empty("frames", BATCH))

    def through(slots: int) -> Callable[[object], None]:
        ring = SlotRing(reader, ARRAYS, max_rows=BATCH, slots=slots, device=CPU)

        def epoch(_: object) -> None:
            for _, rows in ring.read(0, batches):
                student.step(rows["frames"])

        return epoch

    def prepare() -> None:
        if cold:
            forget(cache)

    contenders = {str(slots): through(slots) for slots in RINGS}
    contenders[IN_MEMORY] = lambda _: _steps(student, (frames for _ in batches))
    seconds = interleaved(contenders, prepare, rounds=rounds)
    return {name: ratio(seconds, name, IN_MEMORY) for name in map(str, RINGS)}


def from_video(experiment: Experiment, student: Student, *, rounds: int) -> dict[str, float]:
    """Seconds with each number of workers, which were started before, over batches in memory."""
    index = read_index(experiment.data.index)
    size = experiment.required_student().size
    frames = torch.zeros(BATCH, experiment.clip.num_frames, 3, size, size, dtype=torch.uint8)

    def through(workers: int) -> Callable[[object], None]:
        source = DecodedFrames(
            experiment,
            index,
            index.numbered(experiment.data.train_split),
            size=size,
            replay=None,
            num_views=None,
            keep_clips=False,
            workers=workers,
            memory_bytes=0,
            pinned=False,
            max_bad=0.0,
        )
        batches = cut_batches(source.videos, BATCH)

        def epoch(_: object) -> None:
            loaded = source.read(batches, 0)
            _steps(
                student, (batch.frames_BT3HW for batch in loaded if batch.frames_BT3HW is not None)
            )

        return epoch

    steps = len(cut_batches(range(len(index.split("train"))), BATCH))
    contenders = {str(workers): through(workers) for workers in WORKERS}
    contenders[IN_MEMORY] = lambda _: _steps(student, (frames for _ in range(steps)))
    seconds = interleaved(contenders, lambda: None, rounds=rounds)
    return {name: ratio(seconds, name, IN_MEMORY) for name in map(str, WORKERS)}


def _steps(student: Student, batches: Iterable[Tensor]) -> None:
    for frames in batches:
        student.step(frames)


def compare(file: Path, *, backbone: str, epochs: int, rounds: int) -> dict[str, Any]:
    """All figures of one student on the experiment of a file.

    Args:
        file: As `make_experiment` wrote it.
        backbone: The student's.
        epochs: Times that the store is read in a turn.
        rounds: Turns of each.
    """
    experiment, cache = load_experiment(str(file)), file.parent / "cache"
    student = Student(backbone)
    store = {
        name: from_store(cache, student, epochs=epochs, rounds=rounds, cold=cold)
        for name, cold in (("store_warm", False), ("store_cold", True))
    }
    return {**store, "video": from_video(experiment, student, rounds=rounds)}


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, as_json: bool) -> None:
    """Compare epochs whose batches are read ahead, are not, and lie in memory."""
    before = load()
    with TemporaryDirectory(prefix="bench-prefetch-") as folder:
        file = make_experiment(
            Path(folder), teacher="resnet152", num_videos=16, num_frames=FPS * SECONDS
        )
        write_noise_cache(load_experiment(str(file)), file.parent / "cache")
        result = compare(file, backbone=STUDENT, epochs=4, rounds=rounds)
    lines = [
        f"{source:<11} " + "  ".join(f"{name}: {value:.2f}" for name, value in figures.items())
        for source, figures in result.items()
    ]
    result["load"] = [before, load()]
    emit(result, as_json=as_json, text=in_lines(*lines))


if __name__ == "__main__":
    main()
