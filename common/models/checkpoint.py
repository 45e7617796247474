"""Checkpoint directories: weights as safetensors, everything else as JSON, no pickles.

```
model.safetensors   weights and buffers; in its header what the two other files say
labels.json         class names in the order of the class scores
config.json         model, clip, frame size, digest of the weights, the experiment it came from;
                    written last, so a directory without it is no checkpoint
```

A checkpoint that replaces another one does so the moment its weights are renamed, for they say
themselves what they are (checkpoint_record.py). Where config.json or labels.json are others, they
were read or left behind before their turn, and the header counts. So a reader meets the old
checkpoint or the new one, never a mixture, also where the writer was killed or found the disk full.
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.experiment import Experiment, ModelSpec, Role
from reskd.common.experiment.load import parse_experiment
from reskd.common.models.checkpoint_record import (
    CONFIG_FILE,
    FORMAT,
    LABELS_FILE,
    WEIGHTS_FILE,
    header_record,
    what_counts,
    write_forms,
)
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model, own_colours
from reskd.common.parsing.json_text import read_json
from reskd.common.parsing.problems import problem_text
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.kinds import open_file, read_file
from reskd.common.storage.system_errors import input_problem
from reskd.common.video.preprocess import IMAGENET, colours_of

RUN_STATES: Final = "states"
"""Folder beside the checkpoint of a run, or without one while it trains (student_train/run)."""
RUN_LOCK: Final = ".lock"
"""File in a run's folder that is locked by the process that trains there."""
BEST_CHECKPOINT: Final = "best"
"""Checkpoint inside a run's folder, there while it trains."""
_OTHER_HEAD: Final = (
    "they are those of an earlier version, which averaged the feature map of every model and "
    "classified that. The model's own head, which it has now, needs the file it was imported from "
    "(`reskd import-checkpoint`) or new training."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """What a checkpoint says about itself, without its weights."""

    role: Role
    """Which part of the experiment it plays."""
    model: ModelSpec
    """How to build the network, with the mean and std of its input as numbers."""
    size: int
    """Side of the frames it was trained on, in pixels."""
    weights_sha256: str
    """Digest of the weights by content, see `weights_digest`."""
    classes: tuple[str, ...]
    """Class names in the order of its scores."""
    experiment: Mapping[str, Any]
    """The resolved experiment it was trained by, as plain values; empty if it was imported without
    one."""

    def parsed_experiment(self, *, source: str) -> Experiment | None:
        """The experiment it was trained by; None if it was imported without one.

        Args:
            source: The checkpoint's name, for messages.

        Raises:
            ExperimentError: If the stored values do not describe an experiment.
        """
        return parse_experiment(self.experiment, source=source) if self.experiment else None


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Hexadecimal sha256 of names, types, shapes and bytes, independent of the file's layout."""
    total = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_checkpoint(
    folder: Path,
    model: Recognizer,
    *,
    role: Role,
    spec: ModelSpec,
    size: int,
    classes: tuple[str, ...],
    experiment: Mapping[str, Any],
) -> CheckpointInfo:
    """Write a checkpoint directory; one in the same place is replaced at once, see above."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    info = CheckpointInfo(
        role=role,
        model=replace(spec, mean=model.colours.mean, std=model.colours.std),
        size=size,
        weights_sha256=weights_digest(state),
        classes=classes,
        experiment=experiment,
    )
    forms = write_forms(asdict(info))
    atomic_write(folder / WEIGHTS_FILE, safetensors.torch.save(state, metadata=forms.header))
    atomic_write(folder / LABELS_FILE, forms.labels)
    atomic_write(folder / CONFIG_FILE, forms.config)
    return info


def read_checkpoint_info(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint says about itself.

    Raises:
        DataError: If the folder holds no checkpoint of ours, or one that was changed.
    """
    try:
        with open_file(folder / WEIGHTS_FILE) as weights:
            record = header_record(weights, folder)
    except OSError as error:
        input_problem(error)
        record = {}  # whoever needs the weights will miss them
    return _info_of(folder, record)


def _info_of(folder: Path, record: dict[str, Any]) -> CheckpointInfo:
    """What config.json and labels.json say, or the weights themselves if these are others."""
    try:
        config, labels = (_read_json(folder / name) for name in (CONFIG_FILE, LABELS_FILE))
    except OSError as error:
        problem = input_problem(error)
        if (folder / RUN_STATES).is_dir():
            raise DataError(_unfinished_text(folder)) from error
        inside = folder.is_file() and (folder.parent / CONFIG_FILE).is_file()
        hint = f" Name its folder: {folder.parent}." if inside else ""
        raise DataError(
            f"{folder} is not a checkpoint directory: cannot read its "
            f"{Path(error.filename).name} ({problem}). "
            f"`reskd train-teacher` and `reskd train-student` write such directories.{hint}"
        ) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise DataError(f"{folder / CONFIG_FILE} is not of format {FORMAT!r}.")
    counts = what_counts(record, config, labels, folder)
    try:
        info = TypeAdapter(CheckpointInfo).validate_python(counts)
    except ValidationError as error:
        said = problem_text(error)
        raise DataError(f"{folder / CONFIG_FILE} is not of format {FORMAT!r}: {said}") from error
    return info if info.model.mean and info.model.std else _with_former_colours(info)


def _with_former_colours(info: CheckpointInfo) -> CheckpointInfo:
    """Checkpoints once had no mean and std, for they were the same for all."""
    colours = IMAGENET
    if info.model.recognizer == "torchvision":
        colours = own_colours(info.model)
    return replace(info, model=replace(info.model, mean=colours.mean, std=colours.std))


def _unfinished_text(run: Path) -> str:
    best = run / BEST_CHECKPOINT
    meanwhile = (
        f" The best network so far is a checkpoint already: name {best} instead."
        if (best / CONFIG_FILE).exists()
        else ""
    )
    return (
        f"{run} holds a run that is not finished: its checkpoint is written at the end. Wait for "
        f"it, or call the command that trains it again if nothing trains there.{meanwhile}"
    )


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple[Recognizer, CheckpointInfo]:
    """Build the network of a checkpoint directory and fill in its weights.

    Args:
        folder: A run's folder, its `best`, or what `reskd import-checkpoint` wrote.

    Returns:
        The recognizer in eval mode on the CPU, and what the checkpoint says about itself. It takes
        clips (B, T, 3, H, W), float32 and normalised, and gives feature maps (B, T, C, h, w) and
        class scores (B, K); `load_predictor` takes videos.

    Raises:
        DataError: If a file is missing or damaged, or the weights do not fit the model.
    """
    folder = Path(folder)
    state, info = _read_whole(folder)
    if weights_digest(state) != info.weights_sha256:
        raise DataError(
            f"The weights in {folder / WEIGHTS_FILE} are not those that {CONFIG_FILE} beside it "
            "names: one of the two was replaced or damaged. Write the checkpoint again."
        )
    spec = replace(info.model, pretrained=False, start=None)  # the weights are here
    model = build_model(spec, num_classes=len(info.classes))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        former = "classifier.weight" in state.keys() - model.state_dict().keys()
        reason = _OTHER_HEAD if former else str(error)
        raise DataError(f"The weights in {folder} do not fit its model: {reason}") from error
    return model.eval(), info


def _read_whole(folder: Path) -> tuple[dict[str, Tensor], CheckpointInfo]:
    """Weights and what is said about them; read once, since they may be replaced meanwhile."""
    try:
        content = read_file(folder / WEIGHTS_FILE)
        info = _info_of(folder, header_record(BytesIO(content), folder))
        return safetensors.torch.load(content), info
    except (OSError, SafetensorError) as error:
        input_problem(error)
        read_checkpoint_info(folder)  # where there is no checkpoint at all, this says so
        raise DataError(f"Cannot read the weights {folder / WEIGHTS_FILE}: {error}") from error


def start_from(model: Recognizer, spec: ModelSpec) -> None:
    """Fill a fresh network with the weights of the checkpoint directory `spec.start`, if any.

    Everything is taken, mean and std of its input too where the spec leaves them open, except a
    classifier of another number of classes.

    Raises:
        DataError: If the checkpoint is missing, damaged, or another network.
    """
    if spec.start is None:
        return
    source, info = load_checkpoint(spec.start)
    own, state = model.state_dict(), source.state_dict()
    fresh = model.classifier_tensors
    taken = {
        name: value
        for name, value in state.items()
        if name not in fresh or (name in own and own[name].shape == value.shape)
    }
    differing = [name for name in own if name in taken and own[name].shape != taken[name].shape]
    missing = own.keys() - taken.keys() - fresh
    if differing or missing or taken.keys() - own.keys():
        raise DataError(
            f"model.start {spec.start} holds {info.model.recognizer} {info.model.backbone} "
            f"{info.model.backbone_args}, whose weights are not those of {spec.recognizer} "
            f"{spec.backbone} {spec.backbone_args}. Name a checkpoint of that network."
        )
    model.load_state_dict(taken, strict=False)
    colours = source.colours
    model.colours = colours_of(spec.mean or colours.mean, spec.std or colours.std)


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise DataError(f"{path} of a checkpoint is not JSON: {error}") from error


def check_teacher(
    experiment: Experiment, checkpoint: CheckpointInfo, classes: Sequence[str]
) -> None:
    """The checkpoint must be the network the experiment describes, for these classes.

    Args:
        experiment: Resolved experiment.
        checkpoint: What teacher.checkpoint says of itself.
        classes: Of the index; or of a cache that is there, when the teacher saw its videos.

    Raises:
        DataError: If it is not.
    """
    folder = experiment.teacher.checkpoint
    if checkpoint.classes != tuple(classes):
        raise DataError(
            f"The teacher in {folder} was trained for {len(checkpoint.classes)} classes "
            f"({', '.join(checkpoint.classes[:4])}, …), the index {experiment.data.index} has "
            f"{len(classes)} ({', '.join(classes[:4])}, …). Use the index it was "
            "trained on, or another teacher."
        )
    wanted, held = experiment.teacher.model, checkpoint.model
    if wanted.network != held.network:
        raise DataError(
            f"teacher.model asks for {wanted.recognizer} {wanted.backbone} {wanted.backbone_args}, "
            f"the checkpoint {folder} holds {held.recognizer} {held.backbone} "
            f"{held.backbone_args}. Set teacher.model to what it holds "
            f"({_changes(wanted, held)}), or name a checkpoint of that network as "
            "teacher.checkpoint."
        )
    for name in ("mean", "std"):
        stated, trained = getattr(wanted, name), getattr(held, name)
        if stated is not None and stated != trained:
            raise DataError(
                f"teacher.model.{name} is {list(stated)}, the network in {folder} was made for "
                f"{list(trained)}. Leave teacher.model.{name} out, which takes the checkpoint's."
            )


def _changes(wanted: ModelSpec, held: ModelSpec) -> str:
    """Options that make one network the other; what no option can take out is named."""
    values = {
        name: getattr(held, name)
        for name in ("recognizer", "backbone")
        if getattr(held, name) != getattr(wanted, name)
    }
    for name, value in held.backbone_args.items():
        if wanted.backbone_args.get(name) != value:
            values[f"backbone_args.{name}"] = json.dumps(value)
    options = [
        f"-o {shlex.quote(f'teacher.model.{name}={value}')}" for name, value in values.items()
    ]
    extra = [name for name in wanted.backbone_args if name not in held.backbone_args]
    if extra:
        options.append(f"without backbone_args {', '.join(extra)}")
    return " ".join(options)
