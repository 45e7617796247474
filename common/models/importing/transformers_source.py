"""A video classifier of the library `transformers`, from a folder or from the hub.

Read are config.json, the processor's record and the card (for the licence), and weights from
model.safetensors or pytorch_model.bin, whole or in shards. Files are read as any foreign file is:
nothing in them is run, and the library is given tensors alone. It renames those of files from
before its names changed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from reskd.common.console import in_lines
from reskd.common.errors import DataError
from reskd.common.experiment import ModelSpec
from reskd.common.experiment.load import experiment_tree
from reskd.common.models.checkpoint import save_checkpoint
from reskd.common.models.importing.new_folder import new_folder
from reskd.common.models.importing.options import ImportOptions
from reskd.common.models.importing.safe_file import read_content
from reskd.common.models.registry import build_model
from reskd.common.models.transformers_families import FAMILIES, Three, VideoFamily
from reskd.common.models.transformers_video import UNUSED, library
from reskd.common.parsing.json_text import MOST_BYTES, read_bounded, read_json
from reskd.common.parsing.yaml_text import parse_yaml

_CONFIG: Final = "config.json"
_PROCESSORS: Final = ("video_preprocessor_config.json", "preprocessor_config.json")
_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")
_FILE: Final = re.compile(r".*\.(pth|pt|bin|ckpt|tar|safetensors|pyth|pkl)")
_FRONT_MATTER: Final = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_NO_CLASSIFIERS: Final = re.compile(
    r"model_type|attribute_map|base_config_key|decoder_.*|pred_.*|norm_pix_loss|initializer_range|"
    r"pooler_output_size|pooler_act"
)
"""Fields of a config that say how a network was pretrained or began."""
_UNTOLD: Final = re.compile(r"LABEL_\d+")
_SHOWN: Final = 8


def is_transformers_source(source: Path) -> bool:
    """Whether this is a folder of the library, or may be the name of a repository on the hub."""
    if source.is_dir():
        return _record(source / _CONFIG).get("model_type") in FAMILIES
    name = str(source)
    return not source.exists() and bool(_REPOSITORY.fullmatch(name)) and not _FILE.fullmatch(name)


def import_transformers(source: Path, folder: Path, options: ImportOptions) -> dict[str, Any]:
    """Turn such a classifier into a checkpoint directory, exactly or not at all.

    Args:
        source: Folder, or name of a repository on the hub, which is fetched.
        folder: Checkpoint directory to write; absent.
        options: Of these `role`, `classes`, `size` (which must be its own) and `experiment`.

    Returns:
        What was written and from what, for JSON: as of `import_checkpoint`, and `licence` as the
        card states it, `frames` of a clip, `network`: teacher.model of an experiment, and
        `experiment`: both in words.

    Raises:
        DataError: If it cannot be fetched or read, is no video classifier of a known family, or
            options do not suit it.
        ExperimentError: If the library is absent.
    """
    _check_options(options)
    local = source if source.is_dir() else _fetched(str(source))
    record = _record(local / _CONFIG)
    name = record.get("model_type")
    if name not in FAMILIES:
        raise DataError(
            f"{source} is of model_type {name!r} by its {_CONFIG}; known are {', '.join(FAMILIES)}."
        )
    family, weights = FAMILIES[name], _weights(local)
    loaded = _loaded(source, family, record, _tensors(weights))
    state = {key: value for key, value in loaded.state_dict().items() if UNUSED not in key}
    classes = _classes(source, loaded.config, options)
    mean, std = _colours(local, family)
    spec = ModelSpec(
        recognizer="transformers",
        backbone=name,
        backbone_args=_args(loaded.config),
        dropout=0.0,
        mean=mean,
        std=std,
    )
    model = build_model(spec, num_classes=len(classes))
    model.get_submodule("backbone").load_state_dict(state)
    size, frames = (getattr(loaded.config, field) for field in (family.size, family.frames))
    if options.size not in (None, size):
        raise DataError(f"{source} takes frames of {size} px, --size says {options.size}.")
    licence = _licence(local)
    with new_folder(folder) as partial:
        info = save_checkpoint(
            partial,
            model,
            role=options.role or "teacher",
            spec=spec,
            size=size,
            classes=classes,
            experiment={} if options.experiment is None else experiment_tree(options.experiment),
        )
    network = {"recognizer": "transformers", "backbone": name, "backbone_args": spec.backbone_args}
    return {
        "checkpoint": str(folder),
        "source": str(source.absolute() if source.is_dir() else source),
        "layout": "transformers",
        "role": info.role,
        "model": f"transformers:{name}",
        "classes": len(classes),
        "classifier": "imported",
        "size": size,
        "frames": frames,
        "mean": list(model.colours.mean),
        "std": list(model.colours.std),
        "colours_of": "its processor",
        "tensors": len(model.state_dict()),
        "left": len(loaded.state_dict()) - len(state),
        "placeholders": [],
        "weights_sha256": info.weights_sha256,
        "warnings": [],
        "licence": licence or f"not stated there; that of the published weights: {family.licence}",
        "network": network,
        "experiment": f"views.size {size}, clips of {frames} frames, teacher.model "
        f"{json.dumps(network)}",
    }


def _check_options(options: ImportOptions) -> None:
    unsuited = {
        "--model": options.model,
        "--weights": options.weights,
        "--prefix": options.prefix,
        "--init-classifier": options.init_classifier,
    }
    if given := [name for name, value in unsuited.items() if value]:
        raise DataError(
            f"{', '.join(given)} does not suit a folder or repository of transformers, which says "
            "what it holds. Leave it out; for other classes name the checkpoint as model.start."
        )


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    about = [_CONFIG, *_PROCESSORS, "README.md", "model*.json"]
    try:
        local = Path(snapshot_download(name, allow_patterns=[*about, "model*.safetensors"]))
        if not any(local.glob("model*.safetensors")):
            local = Path(snapshot_download(name, allow_patterns=[*about, "pytorch_model*"]))
    except Exception as error:  # no network, no such repository, a gate, a full disk
        raise DataError(
            f"{name} is neither a file nor a folder here, and cannot be fetched from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Fetch it elsewhere and name "
            "its folder."
        ) from error
    return local


def _record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _weights(folder: Path) -> list[Path]:
    """Files that hold the weights: safetensors where there are any."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        shards = _record(folder / f"{name}.index.json").get("weight_map")
        if isinstance(shards, dict):
            return [folder / Path(shard).name for shard in sorted(set(map(str, shards.values())))]
    raise DataError(f"{folder} holds neither {' nor '.join(_WEIGHTS)}, whole or in shards.")


def _tensors(files: list[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        content, _ = read_content(file)
        if not isinstance(content, Mapping):
            raise DataError(f"{file} holds no tensors by name.")
        tensors |= {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return tensors


def _loaded(
    source: Path, family: VideoFamily, record: Mapping[str, Any], tensors: dict[str, Tensor]
) -> Any:
    """The library's own network with these weights, every one of them in its place."""
    transformers = library()
    log = transformers.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        config = getattr(transformers, f"{family.library_name}Config").from_dict(dict(record))
        kind = getattr(transformers, f"{family.library_name}ForVideoClassification")
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise DataError(f"{source} cannot be loaded by transformers: {error}") from error
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
    if problems := list(_problems(report)):
        raise DataError(in_lines(f"{source} does not fit its own {_CONFIG}:", *problems))
    return model


def _problems(report: Mapping[str, Any]) -> Iterator[str]:
    for title in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(key) for key in report.get(title, ()) if UNUSED not in str(key))
        if not names:
            continue
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"{title.partition('_')[0]}: {', '.join(names[:_SHOWN])}{more}"
        if any(name.startswith("classifier.") for name in names):
            yield "It has no classifier: it was trained without labels. Take a fine-tuned one."


def _args(config: Any) -> dict[str, Any]:
    """The family's own fields that decide a classifier and are not the library's defaults."""
    usual, fields = type(config)(), vars(type(config)).get("__annotations__", {})
    values = {name: getattr(config, name) for name in fields if not _NO_CLASSIFIERS.fullmatch(name)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != getattr(usual, name)
    }


def _classes(source: Path, config: Any, options: ImportOptions) -> tuple[str, ...]:
    count, names = int(config.num_labels), options.classes
    if names is not None:
        if len(names) != count:
            raise DataError(
                f"{source} has {count} classes, --classes names {len(names)}. Give the list it was "
                "trained with."
            )
        return names
    told = [str(config.id2label[number]) for number in range(count)]
    if all(map(_UNTOLD.fullmatch, told)) or len(set(told)) < count:
        return tuple(f"class {number}" for number in range(count))
    return tuple(told)


def _colours(folder: Path, family: VideoFamily) -> tuple[Three, Three]:
    """Mean and std of values from 0 to 1 that come to what the processor does.

    It computes (u * factor - offset - mean) / std of grey levels u from 0 to 255.
    """
    record = next((found for name in _PROCESSORS if (found := _record(folder / name))), None)
    if record is None:
        return family.colours
    offset = 0.0
    factor = float(record.get("rescale_factor", 1 / 255))
    if family.library_name == "Vivit":
        offset = float(record.get("offset", True))
        factor = float(record.get("rescale_factor", 1 / 127.5))
    mean, std = record.get("image_mean", family.colours[0]), record.get("image_std")
    std = family.colours[1] if std is None else std
    if not record.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    scale = 255 * factor
    means = tuple(round((value + offset) / scale, 7) for value in mean)
    stds = tuple(round(value / scale, 7) for value in std)
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def _licence(folder: Path) -> str | None:
    """What the card states."""
    try:
        text = read_bounded(folder / "README.md", MOST_BYTES).decode("utf-8", "replace")
        found = _FRONT_MATTER.match(text)
        front = parse_yaml(found[1]) if found else None
    except (OSError, ValueError):
        return None
    licence = front.get("license") if isinstance(front, dict) else None
    return None if licence is None else str(licence)
