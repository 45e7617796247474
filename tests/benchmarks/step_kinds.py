"""What BatchNorm by groups, parts and compilation make of a student's step.

    python -m tests.benchmarks.step_kinds --json

The same student takes the same step in several ways, in turns: plain; with BatchNorm by groups of
clips (`training.batchnorm_group`); in parts of as many clips (`training.accumulation`); compiled
(`training.compile`), without and with groups. Figures are times over that of the plain step,
medians of the rounds. Compiling itself is not timed.
"""

from collections.abc import Callable
from typing import Any

import click
import torch

from reskd.common.console import emit, in_lines
from reskd.common.experiment import TrainingSpec
from reskd.student_train.data.batches import Batch
from reskd.student_train.data.order import cut_parts
from reskd.student_train.distributed import ProcessGroup
from reskd.student_train.train.stepper import Stepper
from tests.benchmarks.timing import interleaved, load, ratio
from tests.benchmarks.train_step import CLASSES, CPU, make_task

PLAIN = "plain"


def specs(clips: int, group: int, *, compiled: bool) -> dict[str, TrainingSpec]:
    """The kinds of steps by name."""
    kinds: dict[str, dict[str, Any]] = {
        PLAIN: {},
        "groups": {"batchnorm_group": group},
        "parts": {"accumulation": clips // group},
    }
    if compiled:
        kinds |= {
            "compiled": {"compile": True},
            "compiled groups": {"compile": True, "batchnorm_group": group},
        }
    return {name: TrainingSpec(epochs=1, batch_size=clips, **kind) for name, kind in kinds.items()}


def taking(backbone: str, spec: TrainingSpec, whole: Batch) -> Callable[[None], object]:
    """Takes one step."""
    group = spec.batchnorm_group or spec.batch_size
    groups = tuple(map(len, cut_parts(range(len(whole)), spec.batch_size // group)))
    parts = [
        Batch(
            whole.frames_BT3HW[own],
            whole.labels[own],
            share=len(own) / len(whole),
            ends_step=own[-1] + 1 == len(whole),
            groups=groups if spec.accumulation == 1 else (len(own),),
        )
        for own in cut_parts(range(len(whole)), spec.accumulation)
    ]
    stepper = Stepper(make_task(backbone), spec, ProcessGroup(CPU), None)
    stepper.task.train()

    def take(_: None) -> None:
        for part in parts:
            stepper.forward_backward(part)
        stepper.step(1e-6)

    return take


def measure(
    backbone: str,
    *,
    clips: int,
    frames: int,
    size: int,
    group: int,
    rounds: int,
    compiled: bool,
) -> dict[str, Any]:
    """All kinds in turns."""
    generator = torch.Generator().manual_seed(0)
    shape = (clips, frames, 3, size, size)
    whole = Batch(
        torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        torch.randint(CLASSES, (clips,), generator=generator),
    )
    kinds = specs(clips, group, compiled=compiled)
    steps = {name: taking(backbone, spec, whole) for name, spec in kinds.items()}
    seconds = interleaved(steps, lambda: None, rounds=rounds, warmups=2)
    return {
        "backbone": backbone,
        "step": f"{clips} clips of {frames} frames, {size} px, groups of {group} clips",
        **{name: ratio(seconds, name, PLAIN) for name in kinds if name != PLAIN},
        "load": load(),
    }


def run(*, rounds: int = 5, compiled: bool = True) -> dict[str, Any]:
    """A real student, and a small one, which alone is compiled: that takes minutes."""
    return {
        "resnet50": measure(
            "resnet50",
            clips=64,
            frames=1,
            size=112,
            group=8,
            rounds=rounds,
            compiled=False,
        ),
        "test_resnet": measure(
            "test_resnet",
            clips=64,
            frames=8,
            size=32,
            group=8,
            rounds=3 * rounds,
            compiled=compiled,
        ),
    }


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--no-compile", is_flag=True, help="Leave compiled steps out.")
@click.option("--json", "as_json", is_flag=True)
def main(rounds: int, no_compile: bool, as_json: bool) -> None:
    """Measure the kinds of steps."""
    result = run(rounds=rounds, compiled=not no_compile)
    rows = [
        f"{name}: {kind} {part[kind]:.3f}"
        for name, part in result.items()
        for kind in specs(64, 8, compiled=True)
        if kind in part
    ]
    emit(result, as_json=as_json, text=in_lines(*rows))


if __name__ == "__main__":
    main()
