"""The step that ended a run, kept whole, and computed again to see where it goes wrong.

    python -m reskd.student_train.train.reproduce RUN/failure

```
failure/
    step.json             what happened, where, the experiment, the labels' videos
    tensors.safetensors   the weights the step met (weights.*), its frames, labels and targets
```

Buffers are not what the step met: its own forward pass had written to them, and they are too many
to be copied before every step. They have no part in a training step of BatchNorm.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import Tensor, nn

from reskd.common.console import emit, say
from reskd.common.errors import DataError, ReskdError
from reskd.common.experiment import LabelSpec, LossSpec, ModelSpec
from reskd.common.models.checkpoint_record import CONFIG_FILE
from reskd.common.models.registry import build_model
from reskd.common.own_code import ANY_NAME, trust_code
from reskd.common.parsing.json_text import read_json
from reskd.common.parsing.problems import problem_text
from reskd.common.rng import derived_seed
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.video.preprocess import colours_of
from reskd.student_train.data.batches import Batch
from reskd.student_train.run.folder import BEST_FOLDER, STATES_FOLDER
from reskd.student_train.run.state import RunPosition
from reskd.student_train.train.freeze import freeze
from reskd.student_train.train.ghost_batchnorm import convert_ghost_batchnorm
from reskd.student_train.train.stepper import Stepper, described
from reskd.student_train.train.task import MoreTeacher, Task

STEP_FILE: Final = "step.json"
TENSORS_FILE: Final = "tensors.safetensors"
_WEIGHTS: Final = "weights."
_TARGETS: Final = "targets."


def save_failure(
    folder: Path,
    stepper: Stepper,
    batch: Batch,
    place: RunPosition,
    *,
    problem: str,
    facts: Mapping[str, Any],
) -> None:
    """Keep one part of a step.

    Args:
        folder: Where to; files of an earlier failure are replaced.
        stepper: With the weights that the step met.
        batch: The part.
        place: Epoch and step.
        problem: What was wrong.
        facts: Model, losses and whatever else describes the run, as JSON values.
    """
    tensors = {_WEIGHTS + name: value for name, value in stepper.task.state_dict().items()}
    tensors |= {_TARGETS + name: value for name, value in stepper.targets(batch).items()}
    tensors |= {"frames": batch.frames_BT3HW, "labels": batch.labels}
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    if stepper.task.class_weights_K is not None:
        whole["class_weights"] = stepper.task.class_weights_K.cpu()
    step = {"problem": problem, "epoch": place.epoch, "step": place.step, **facts}
    step["teacher_grid"] = stepper.task.teacher_grid
    step["more_teachers"] = [
        {"losses": asdict(terms.losses), "grid": terms.teacher_grid}
        for start, terms in stepper.task.teachers.items()
        if start
    ]
    step["videos"] = batch.videos
    step["groups"], step["weights"] = batch.groups, batch.weights
    step["colours"] = stepper.task.model.colours._asdict()
    atomic_write(folder / TENSORS_FILE, safetensors.torch.save(whole))
    atomic_write(folder / STEP_FILE, json.dumps(step, indent=1, default=str).encode())


def recovery_hint(run: Path) -> str:
    """What is left of a run that has diverged, and how to go on with a gentler recipe.

    Args:
        run: Its folder.
    """
    states = [path for path in (run / STATES_FOLDER).glob("*") if path.name.isdigit()]
    gentler = "a lower learning rate or loss weight"
    if not states:
        return f"No state was saved before, so the same command with {gentler} starts over."
    newest, best = max(states), run / BEST_FOLDER
    start = ""
    if (best / CONFIG_FILE).exists():
        start = (
            f", there from the best network so far if you like: -o student.model.start={best} "
            "-o student.model.pretrained=false (a teacher's: teacher.model...)"
        )
    return (
        f"The run after {int(newest.name)} steps is on disk, {newest}; it goes on from there with "
        f"the same recipe only. With {gentler}, start over in this folder with --fresh --replace "
        f"{shlex.quote(run.name)} or train in another one with --run{start}."
    )


def reproduce(folder: Path) -> dict[str, Any]:
    """Compute the kept part of a step again, on the CPU in the run's precision.

    Returns:
        `problem`, `videos`, `precision`, `loss` (with its parts) and `gradient_norm` as texts,
        `first_not_finite` (name of the first layer that returns something not finite, or None),
        `not_finite` (names of weights, frames and targets that are not finite to begin with),
        `buffers_not_finite` (names of buffers that are not, after the step's own forward pass),
        `notes` (what to keep in mind, as sentences).

    Raises:
        DataError: If the folder holds no such step.
    """
    step, tensors = _read(folder)
    model = build_model(ModelSpec(**step["model"]), num_classes=step["num_classes"])
    freeze(model, step.get("freeze", ()))
    targets = _with_prefix(tensors, _TARGETS)
    grid = step["teacher_grid"]
    task = Task(
        model,
        TypeAdapter(LossSpec).validate_python(step["losses"]),
        labels=LabelSpec(**step["labels"]),
        class_weights_K=tensors.get("class_weights"),
        teacher_channels=targets["features"].shape[2] if "features" in targets else None,
        teacher_grid=None if grid is None else (grid[0], grid[1]),
        more=[*_more_teachers(step, targets)],
    )
    task.load_state_dict(_with_prefix(tensors, _WEIGHTS))
    if step.get("batchnorm_group") is not None:
        convert_ghost_batchnorm(task, task.groups)
    task.groups.sizes = tuple(step.get("groups", ()))
    task.groups.weights = step.get("weights")
    model.colours = colours_of(step["colours"]["mean"], step["colours"]["std"])
    strange: list[str] = []
    for name, module in task.named_modules():
        module.register_forward_hook(_note_strange(name, strange))
    torch.manual_seed(derived_seed(step["seed"], "step", step["epoch"], step["step"], step["rank"]))
    dtype: torch.dtype = getattr(torch, step["precision"])
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        output = task.train()(model.normalize(tensors["frames"]), tensors["labels"], targets)
    output.loss.backward()
    gradients = [p.grad.norm() for p in task.parameters() if p.grad is not None]
    buffers = {_WEIGHTS + name for name, _ in task.named_buffers()}
    strange_ones = sorted(name for name, value in tensors.items() if not _is_finite(value))
    strange_buffers = [name for name in strange_ones if name in buffers]
    return {
        "problem": step["problem"],
        "videos": step["videos"],
        "precision": step["precision"],
        "loss": described(output),
        "gradient_norm": f"{torch.stack(gradients).norm().item():.4g}",
        "first_not_finite": strange[0] if strange else None,
        "not_finite": [name for name in strange_ones if name not in buffers],
        "buffers_not_finite": strange_buffers,
        "notes": [*_notes(step, strange_buffers)],
    }


def _more_teachers(step: Mapping[str, Any], targets: Mapping[str, Tensor]) -> Iterator[MoreTeacher]:
    for number, teacher in enumerate(step.get("more_teachers", ()), 2):
        features, grid = targets.get(f"{number}/features"), teacher["grid"]
        channels = None if features is None else features.shape[2]
        size = None if grid is None else (grid[0], grid[1])
        yield MoreTeacher(LossSpec(**teacher["losses"]), channels, size)


def _notes(step: Mapping[str, Any], strange_buffers: Sequence[str]) -> Iterator[str]:
    if strange_buffers:
        yield (
            "The buffers in buffers_not_finite were kept after the forward pass that failed, which "
            "writes to them: they tell what came out of it, not what it met."
        )
    if step["accumulation"] > 1:
        yield (
            f"The step had {step['accumulation']} parts (training.accumulation). Kept is the one "
            "it ended with: what the others added to the gradient is missing here, and dropout is "
            "that of the first one. A dist_intra of all parts together was another number."
        )


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        step = read_json(folder / STEP_FILE)
        return step, safetensors.torch.load((folder / TENSORS_FILE).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{folder} holds no step that ended a run: {problem_text(error)}"
        ) from error


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _note_strange(name: str, strange: list[str]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor) and not _is_finite(first):
            strange.append(name)

    return hook


def main() -> int:
    """Print what `reproduce` finds about the folder named on the command line."""
    arguments = [text for text in sys.argv[1:] if text != "--trust-code"]
    if len(arguments) != 1:
        say("Usage: python -m reskd.student_train.train.reproduce [--trust-code] RUN/failure")
        return 2
    if len(arguments) < len(sys.argv) - 1:
        trust_code(ANY_NAME)
    try:
        emit(reproduce(Path(arguments[0])), as_json=True, text="")
    except ReskdError as error:
        say(f"Error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
