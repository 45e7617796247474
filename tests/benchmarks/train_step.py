"""What the training loop costs beside the arithmetic of a step.

    python -m tests.benchmarks.train_step --json

The same student takes the same steps twice in turns: through `train` (order, labels, learning rate,
figures, log, stop requests) with data in memory, and through the shortest loop PyTorch allows:
forward, backward, clip, step. `overhead` is the time of the loop over the bare one, minus 1;
`milliseconds` the difference per step; medians of the pairs. The student `none` computes nothing.
States are not saved.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from reskd.common.console import emit, in_lines
from reskd.common.experiment import LabelSpec, LossSpec, ModelSpec, OptimizerSpec, TrainingSpec
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.common.models.registry import build_model
from reskd.student_train.data.batches import Batch, Batches
from reskd.student_train.data.decoded_frames import LoadedBatch
from reskd.student_train.data.unreadable import Unreadable
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.run.folder import RunFolder
from reskd.student_train.train.loop import Training, train
from reskd.student_train.train.stepper import Stepper
from reskd.student_train.train.task import Task
from tests.benchmarks.timing import interleaved, load, ratio

SPEC = TrainingSpec(epochs=1, optimizer=OptimizerSpec(lr=1e-3))
CPU = torch.device("cpu")


NONE = "none"
CLASSES = 10


class NoStudent(Recognizer):
    """Says the same of every clip, and learns to say something else."""

    num_features = 0

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(CLASSES))

    @property
    def classifier_tensors(self) -> frozenset[str]:
        return frozenset({"scores"})

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        clips, frames = clips_BT3HW.shape[:2]
        features = clips_BT3HW.new_zeros(clips, frames, 0, 0, 0)
        return ClipOutput(features, self.scores.expand(clips, -1))


class InMemory:
    """Batches that are there already."""

    stored: Sequence[str] = ()
    how_to_speed_up = "nothing"

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.videos = range(sum(map(len, batches)))
        self.unreadable = Unreadable({}, max_bad=0.0)

    def read(self, batches: list[list[int]], epoch: int) -> Generator[LoadedBatch, None, None]:
        """The same clips whatever the order is."""
        for videos, batch in zip(batches, self.batches, strict=True):
            yield LoadedBatch(videos, batch.frames_BT3HW)


class SameLabels:
    """Labels of `InMemory`."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels

    def of(self, videos: Sequence[int], *, epoch: int) -> torch.Tensor:
        """One after the other."""
        return self.labels[: len(videos)]


class Unsaved(RunFolder):
    """Saving is a matter of disks and of how often, not of a step."""

    def save(self, *_: Any) -> None:
        """Do nothing."""


def make_task(backbone: str, seed: int = 0) -> Task:
    """A student that learns from labels alone."""
    torch.manual_seed(seed)
    model: Recognizer = NoStudent()
    if backbone != NONE:
        model = build_model(ModelSpec(backbone=backbone), num_classes=CLASSES)
    return Task(model, LossSpec(feature_mse=0.0), labels=LabelSpec())


def through_the_loop(backbone: str, batches: list[Batch], folder: Path) -> None:
    """One epoch as `train` runs it, its log included."""
    processes = ProcessGroup(CPU)
    source = Batches(
        InMemory(batches),
        SameLabels(batches[0].labels),  # type: ignore[arg-type]
        targets=(),
        cache=None,
        num_views=None,
        batch_size=len(batches[0]),
        seed=0,
        processes=processes,
    )
    stepper = Stepper(make_task(backbone), SPEC, processes, None)
    train(
        stepper, Training(batches=source, spec=SPEC, run=Unsaved(folder, {}), processes=processes)
    )


def bare(backbone: str, batches: list[Batch]) -> None:
    """The same steps with nothing around them."""
    task = make_task(backbone).train()
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    for batch in batches:
        logits = task.model(task.model.normalize(batch.frames_BT3HW)).logits_BK
        loss = cross_entropy(logits, batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(task.parameters(), 20.0)
        optimizer.step()


def measure(backbone: str, *, clips: int, frames: int, size: int, steps: int, rounds: int) -> Any:
    """Both in turns."""
    generator = torch.Generator().manual_seed(0)
    shape = (clips, frames, 3, size, size)
    labels = torch.randint(CLASSES, (clips,), generator=generator)
    batches = [
        Batch(torch.randint(256, shape, generator=generator, dtype=torch.uint8), labels)
        for _ in range(steps)
    ]
    with TemporaryDirectory() as folder:
        seconds = interleaved(
            {
                "loop": lambda run: through_the_loop(backbone, batches, run),
                "bare": lambda _: bare(backbone, batches),
            },
            lambda: Path(mkdtemp(dir=folder)),
            rounds=rounds,
        )
    pairs = [*zip(seconds["loop"], seconds["bare"], strict=True)]
    return {
        "backbone": backbone,
        "step": f"{clips} clips of {frames} frames, {size} px",
        "steps": steps,
        "overhead": ratio(seconds, "loop", "bare") - 1,
        "milliseconds": median(1000 * (ours - theirs) / steps for ours, theirs in pairs),
        "overheads": [ours / theirs - 1 for ours, theirs in pairs],
        "load": load(),
    }


def run(*, rounds: int = 5) -> dict[str, Any]:
    """A real student, a tiny one whose step leaves the loop nowhere to hide, and none at all."""
    return {
        NONE: measure(NONE, clips=64, frames=1, size=1, steps=400, rounds=rounds),
        "resnet50": measure("resnet50", clips=4, frames=4, size=112, steps=10, rounds=rounds),
        "test_resnet": measure("test_resnet", clips=8, frames=4, size=32, steps=100, rounds=rounds),
    }


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, as_json: bool) -> None:
    """Measure the overhead of the training loop."""
    result = run(rounds=rounds)
    text = in_lines(
        *(
            f"{name}: {part['overhead']:+.1%}, {part['milliseconds']:.2f} ms per step"
            for name, part in result.items()
        )
    )
    emit(result, as_json=as_json, text=text)


if __name__ == "__main__":
    main()
