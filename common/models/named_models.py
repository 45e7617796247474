"""Recognizers by name, with the clips they are usually given; imports no torch."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, get_args, get_type_hints

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.own_code import trust_code


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A recognizer and the clips it is usually given."""

    spec: ModelSpec
    """How to build it; goes into an experiment as teacher.model or student.model."""
    num_frames: int = 8
    """T, frames of a clip."""
    size: int = 224
    """Side of its frames, in pixels."""


def _frames_of(recognizer: str, backbone: str) -> NamedModel:
    return NamedModel(ModelSpec(recognizer=recognizer, backbone=backbone))  # type: ignore[arg-type]


def _swin(backbone: str) -> NamedModel:
    return NamedModel(ModelSpec(recognizer="swin3d", backbone=backbone), num_frames=32)


def _torchvision(backbone: str, size: int) -> NamedModel:
    spec = ModelSpec(recognizer="torchvision", backbone=backbone)
    return NamedModel(spec, num_frames=16, size=size)


def _of_transformers(backbone: str, num_frames: int, size: int) -> NamedModel:
    spec = ModelSpec(recognizer="transformers", backbone=backbone)
    return NamedModel(spec, num_frames=num_frames, size=size)


NAMED_MODELS: Final[dict[str, NamedModel]] = {
    "tsn_r18": _frames_of("tsn", "resnet18"),
    "tsn_r50": _frames_of("tsn", "resnet50"),
    "tsn_r152": _frames_of("tsn", "resnet152"),
    "tsn_mobilenetv4_small": _frames_of("tsn", "mobilenetv4_conv_small"),
    "tsn_efficientnet_b0": _frames_of("tsn", "efficientnet_b0"),
    "tsn_convnext_tiny": _frames_of("tsn", "convnext_tiny"),
    "tsn_vit_small": _frames_of("tsn", "vit_small_patch16_224"),
    "tsm_r18": _frames_of("tsm", "resnet18"),
    "tsm_r50": _frames_of("tsm", "resnet50"),
    "tsm_r101": _frames_of("tsm", "resnet101"),
    "slowonly_r18": _frames_of("slowonly", "resnet18"),
    "slowonly_r50": _frames_of("slowonly", "resnet50"),
    "swin3d_t": _swin("swin3d_t"),
    "swin3d_s": _swin("swin3d_s"),
    "swin3d_b": _swin("swin3d_b"),
    "r3d_18": _torchvision("r3d_18", 112),
    "mc3_18": _torchvision("mc3_18", 112),
    "r2plus1d_18": _torchvision("r2plus1d_18", 112),
    "s3d": _torchvision("s3d", 224),
    "mvit_v1_b": _torchvision("mvit_v1_b", 224),
    "mvit_v2_s": _torchvision("mvit_v2_s", 224),
    "videomae_b": _of_transformers("videomae", 16, 224),
    "timesformer_b": _of_transformers("timesformer", 8, 224),
    "vivit_b": _of_transformers("vivit", 32, 224),
    "vjepa2_l": _of_transformers("vjepa2", 16, 256),
}
"""Name to recognizer. Any other backbone goes by its pair, such as tsn:resnet34."""

RECOGNIZERS: Final[tuple[str, ...]] = get_args(get_type_hints(ModelSpec)["recognizer"])
"""What ModelSpec.recognizer may be."""


def named_model(name: str) -> NamedModel:
    """A model of the table, or of a pair recognizer:backbone with the recognizer's usual clips.

    The name is the user's own: code of theirs that it names (python:package.module:build) is
    trusted.

    Raises:
        ExperimentError: If the name is neither. Whether the backbone exists shows when it is built.
    """
    if name in NAMED_MODELS:
        return NAMED_MODELS[name]
    recognizer, colon, backbone = name.partition(":")
    if not colon or not backbone:
        near = ", ".join(get_close_matches(name, NAMED_MODELS, n=3))
        raise ExperimentError(
            f"There is no model {name!r}. Some that sound like it: {near or 'none'}. "
            "`reskd models list` shows all; any other goes by recognizer:backbone, such as "
            "tsn:mobilenetv4_conv_small."
        )
    if recognizer not in RECOGNIZERS:
        raise ExperimentError(
            f"{name!r} names the recognizer {recognizer!r}; there are {', '.join(RECOGNIZERS)}."
        )
    for named in NAMED_MODELS.values():
        if (named.spec.recognizer, named.spec.backbone) == (recognizer, backbone):
            return named
    if recognizer == "python":
        trust_code(backbone)
    return _swin(backbone) if recognizer == "swin3d" else _frames_of(recognizer, backbone)
