"""From a foreign file to a checkpoint directory: read, recognise, rename, check, write."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reskd.common.console import in_lines
from reskd.common.errors import DataError
from reskd.common.experiment import ModelSpec, Role
from reskd.common.experiment.load import experiment_tree
from reskd.common.models.checkpoint import CheckpointInfo, save_checkpoint
from reskd.common.models.importing.fit import fit, inflate
from reskd.common.models.importing.hints import inner_names, unrecognised_text
from reskd.common.models.importing.known_models import (
    Candidate,
    UnrecognisedError,
    decide,
    generic_candidate,
    identify,
    is_generic,
    is_renamed,
    model_spec,
    own_classifier,
    plain_head,
    short_name,
)
from reskd.common.models.importing.names import INDEX_SUFFIX
from reskd.common.models.importing.new_folder import check_free, new_folder
from reskd.common.models.importing.options import ImportOptions
from reskd.common.models.importing.parts import Part, choose_part, usual_role
from reskd.common.models.importing.transformers_source import (
    import_transformers,
    is_transformers_source,
)
from reskd.common.models.importing.weights_file import read_weights
from reskd.common.models.named_models import NAMED_MODELS
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model, meta_model, timm_facts

_INSIDE, _HEAD = "backbone.model.", "classifier."
_RKD_STUDENT_SIZE, _SIZE = 112, 224
_SHOWN = 8
_DRIFTED = (
    "the teacher's BatchNorm statistics in an RKD file are not those it was trained with: it ran "
    "in training mode beside the student, which moved them. Import the teacher's own file wherever "
    "you have it"
)


def import_checkpoint(file: Path, folder: Path, options: ImportOptions) -> dict[str, Any]:
    """Turn a published file into a checkpoint directory, exactly or not at all.

    Args:
        file: .pth or .safetensors of mmaction2, ResKD, Video Swin, torchvision or timm.
        folder: Checkpoint directory to write; absent or empty.
        options: See there.

    Returns:
        What was written and from what, with warnings, for JSON.

    Raises:
        DataError: If the file cannot be read, is of no known network, contradicts the options or
            does not fit the model tensor by tensor, or if the folder is in use.
    """
    folder = folder.absolute()
    check_free(folder)
    if is_transformers_source(file):
        return import_transformers(file, folder, options)
    weights = read_weights(file, weights=options.weights, prefix=options.prefix)
    tensors = weights.tensors
    try:
        source = _recognise(tensors, options)
        classes = _class_names(source.part, tensors, options)
        state, warnings = _state(source, tensors, len(classes), options)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    model = _filled(source.spec, state, len(classes), options)
    info = _write(folder, model, source, classes, options)
    return {
        "checkpoint": str(folder),
        "source": str(file.absolute()),
        "layout": source.part.layout,
        "role": info.role,
        "model": short_name(info.model.recognizer, info.model.backbone),
        "classes": len(classes),
        "classifier": "new" if options.init_classifier else "imported",
        "size": info.size,
        "mean": list(model.colours.mean),
        "std": list(model.colours.std),
        "colours_of": _colours_source(source.spec, model),
        "tensors": len(model.state_dict()),
        "left": len(source.part.left) + len(weights.left),
        "placeholders": list(weights.placeholders),
        "weights_sha256": info.weights_sha256,
        "warnings": warnings,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A network of the file and the model it will fill."""

    part: Part
    candidate: Candidate
    spec: ModelSpec


def _recognise(tensors: Mapping[str, Tensor], options: ImportOptions) -> _Source:
    role = options.role or usual_role(tensors)
    wanted = _wanted_spec(options, role)
    try:
        part, candidate = _candidate(tensors, role, wanted)
    except UnrecognisedError as error:
        raise DataError(unrecognised_text(tensors, wanted)) from error
    return _Source(part=part, candidate=candidate, spec=decide(candidate, wanted))


def _candidate(
    tensors: Mapping[str, Tensor], role: Role, wanted: ModelSpec | None
) -> tuple[Part, Candidate]:
    if wanted is not None and is_generic(wanted) and not is_renamed(tensors):
        part = choose_part(
            tensors, role, plain_head=plain_head(wanted), own_classifier=own_classifier(wanted)
        )
        candidate = generic_candidate(part, wanted)
        if not candidate.names.keys() & inner_names(wanted):
            raise UnrecognisedError(f"no name is one of {wanted.backbone}")
        return part, candidate
    part = choose_part(tensors, role)
    return part, identify(part, {key: tuple(tensor.shape) for key, tensor in tensors.items()})


def _wanted_spec(options: ImportOptions, role: Role) -> ModelSpec | None:
    """The model that was asked for, by its name, by an experiment or by both."""
    named = None if options.model is None else model_spec(options.model)
    if options.experiment is None:
        return named
    plan = (
        options.experiment.teacher if role == "teacher" else options.experiment.required_student()
    )
    planned = replace(plan.model, pretrained=False, start=None)
    if named and named.network[:2] != planned.network[:2]:
        raise DataError(
            f"--model {options.model} contradicts the {role} of the experiment, "
            f"{short_name(planned.recognizer, planned.backbone)}. Leave --model out."
        )
    # Whose weights it is may be said by the one or the other.
    return replace(planned, backbone=named.backbone) if named and "." in named.backbone else planned


def _class_names(
    part: Part, tensors: Mapping[str, Tensor], options: ImportOptions
) -> tuple[str, ...]:
    """Names for every score.

    Raises:
        DataError: If their number is not the classifier's, or nothing tells their number.
    """
    names = options.classes
    if options.init_classifier:
        if names is None:
            raise DataError(
                "--init-classifier makes a classifier for the names in --classes FILE; name them."
            )
        return names
    named = (key for name, key in part.classifier.items() if name.endswith(("weight", "bias")))
    weight = next(named, None)
    if weight is None:
        raise DataError(_no_classifier(part))
    count = tensors[weight].shape[0] if tensors[weight].ndim else 0
    if names is not None and len(names) != count:
        raise DataError(
            f"the classifier has {count} classes, --classes names {len(names)}. Give the list it "
            "was trained with, or a new classifier with --init-classifier."
        )
    return names or tuple(f"class {number}" for number in range(count))


def _no_classifier(part: Part) -> str:
    if part.layout == "rkd" and part.role == "teacher":
        return (
            "missing: cls_head.fc_cls_t.weight and cls_head.fc_cls_t.bias. An RKD file trained on "
            "feature maps keeps the teacher's backbone alone, without its classifier. Import the "
            f"teacher's own file instead; besides, {_DRIFTED}."
        )
    return (
        "missing: the classifier's weight and bias (fc, head or cls_head.fc_cls). To use the file "
        "as a start for training, give --init-classifier and --classes FILE."
    )


def _state(
    source: _Source, tensors: Mapping[str, Tensor], num_classes: int, options: ImportOptions
) -> tuple[dict[str, Tensor], list[str]]:
    """The model's whole state under its own names, and what its user should know."""
    part = source.part
    origin = {_INSIDE + name: key for name, key in source.candidate.names.items()}
    model = meta_model(source.spec, num_classes=num_classes)
    target, fresh = model.state_dict(), model.classifier_tensors
    if options.init_classifier:
        target = {name: value for name, value in target.items() if name not in fresh}
    else:
        prefix = _HEAD if f"{_HEAD}weight" in fresh else _INSIDE
        origin |= {prefix + name: key for name, key in part.classifier.items()}
    found = _shaped({name: tensors[key] for name, key in origin.items()}, source, target)
    state, misfits = fit(found, origin, target, unknown=part.unknown)
    if problems := misfits.text():
        name = short_name(source.spec.recognizer, source.spec.backbone)
        raise DataError(
            in_lines(
                f"does not fit {name} with {num_classes} classes, nothing is written:", problems
            )
        )
    drifted = part.layout == "rkd" and part.role == "teacher"
    has_statistics = any(name.endswith("running_mean") for name in state)
    return state, [_DRIFTED] if drifted and has_statistics else []


def _shaped(
    found: dict[str, Tensor], source: _Source, target: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of an image network inflated, and a classifier of 1x1 kernels as a matrix."""
    weight = found.get(f"{_HEAD}weight")
    if weight is not None and weight.ndim > 2 and weight[0, 0].numel() == 1:
        found[f"{_HEAD}weight"] = weight.flatten(1)
    if source.candidate.of_images and source.spec.recognizer in ("slowonly", "swin3d"):
        # The numbering of an image's positions says nothing about a clip's.
        found = {name: value for name, value in found.items() if not name.endswith(INDEX_SUFFIX)}
        return inflate(found, {name: tuple(value.shape) for name, value in target.items()})
    return found


def _filled(
    spec: ModelSpec, state: dict[str, Tensor], num_classes: int, options: ImportOptions
) -> Recognizer:
    """The model with the file's tensors as its state, to be saved."""
    if not options.init_classifier:
        # Made without weights and given the file's own tensors: nothing is drawn, nothing copied.
        model = meta_model(spec, num_classes=num_classes)
        model.load_state_dict(state, assign=True)
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = build_model(spec, num_classes=num_classes)  # which knows how its classifier starts
    whole = model.state_dict()
    model.load_state_dict(state | {name: whole[name] for name in model.classifier_tensors})
    return model


def _write(
    folder: Path,
    model: Recognizer,
    source: _Source,
    classes: tuple[str, ...],
    options: ImportOptions,
) -> CheckpointInfo:
    with new_folder(folder) as partial:
        return save_checkpoint(
            partial,
            model,
            role=source.part.role,
            spec=source.spec,
            size=_size(source, model, options),
            classes=classes,
            experiment={} if options.experiment is None else experiment_tree(options.experiment),
        )


def _size(source: _Source, model: Recognizer, options: ImportOptions) -> int:
    if options.size is not None:
        return options.size
    role = source.part.role
    if options.experiment is not None:
        return options.experiment.size_of(role)
    if source.part.layout == "rkd" and role == "student":
        return _RKD_STUDENT_SIZE
    usual = NAMED_MODELS.get(short_name(source.spec.recognizer, source.spec.backbone))
    if usual is not None:
        return usual.size
    about = timm_facts(model)
    return int(about["input_size"][-1]) if about.get("fixed_input_size") else _SIZE


def _colours_source(spec: ModelSpec, model: Recognizer) -> str:
    """Where mean and std of the input come from, and how to say otherwise."""
    if spec.mean is not None and spec.std is not None:
        return "the experiment"
    if spec.recognizer in ("swin3d", "torchvision"):
        return f"torchvision's {spec.backbone}"
    tag = timm_facts(model).get("tag")
    name = f"timm's {spec.backbone.partition('.')[0]}" + (f".{tag}" if tag else "")
    if "." in spec.backbone or not tag:
        return name
    return (
        f"{name}, assumed since no tag was named; for weights of another one, import with "
        f"--model {short_name(spec.recognizer, spec.backbone)}.TAG"
    )


def _placeholder_lines(names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"not loaded, beside the weights: {', '.join(names[:_SHOWN])}{more}"]


def import_text(result: Mapping[str, Any]) -> str:
    """The result for a person."""
    left = f", {result['left']} other tensors of it left" if result["left"] else ""
    model = (
        f"{result['model']}, {result['classes']} classes ({result['classifier']} classifier), "
        f"frames of {result['size']} px"
    )
    mean, std = (", ".join(map(str, result[name])) for name in ("mean", "std"))
    about = [f"{name}: {result[name]}" for name in ("licence", "experiment") if name in result]
    lines = [
        f"{result['role']} {result['checkpoint']}",
        model,
        f"input: mean {mean}; std {std} (of {result['colours_of']})",
        f"{result['tensors']} tensors from {result['source']} ({result['layout']} layout{left})",
        *_placeholder_lines(result["placeholders"]),
        *about,
        *(f"warning: {warning}" for warning in result["warnings"]),
    ]
    return in_lines(*lines)
