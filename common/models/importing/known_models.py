"""Models by the names of `--model`, and which of them a file's tensors are.

Names are those of `reskd models list` and its pairs such as `tsn:resnet34`. Besides, r18 to r152
after `tsn_`, `tsm_` or `slowonly_` are ResNets of that depth, and what else follows `tsn_` or
`tsm_` is timm's own name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import timm
from pydantic import TypeAdapter

from reskd.common.errors import DataError
from reskd.common.experiment import ModelSpec
from reskd.common.models.frame_backbone import head_of
from reskd.common.models.importing.efficientnet_names import (
    STEM,
    efficientnet_size,
    timm_efficientnet_names,
)
from reskd.common.models.importing.names import (
    is_shifted,
    resnet_backbone,
    shifts_elsewhere,
    swin_backbone,
    timm_resnet_name,
    video_swin_names,
)
from reskd.common.models.importing.parts import Part
from reskd.common.models.named_models import NAMED_MODELS, RECOGNIZERS, named_model

Shapes = Mapping[str, tuple[int, ...]]

_SHORT_RESNET = re.compile(r"r(18|34|50|101|152)")
_PLAIN_RESNET = re.compile(r"resnet(18|34|50|101|152)")
_OVER_FRAMES: Final = ("tsn", "tsm", "slowonly")
_RESNET_STARTS: Final = tuple(f"layer1.0.conv1.{rest}" for rest in ("weight", "conv.", "net."))
EXAMPLES: Final = "tsn_r50, tsn_r152, tsm_r50, slowonly_r50, swin3d_t, swin3d_s, swin3d_b, r3d_18"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a file's network can be, and its tensors by the names it then has here."""

    recognizers: tuple[str, ...]
    """Kinds of model that these tensors fill; the first is taken where `--model` names none."""
    backbone: str | None
    """Name of the backbone; None where no known one has such tensors."""
    described: str
    """The network in words, for messages."""
    names: Mapping[str, str]
    """Name here, inside the backbone -> key in the file."""
    of_images: bool = False
    """Whether it was made for images, so that a video network with time in it inflates it."""


def model_spec(name: str) -> ModelSpec:
    """The model a short name stands for.

    Raises:
        DataError: If there is none of that name.
    """
    kind, _, backbone = name.partition(":")
    if name in NAMED_MODELS or (kind in RECOGNIZERS and backbone):
        return named_model(name).spec
    recognizer, _, rest = name.partition("_")
    if recognizer in _OVER_FRAMES and (short := _SHORT_RESNET.fullmatch(rest)):
        return _spec(recognizer, f"resnet{short[1]}")
    if recognizer in ("tsn", "tsm") and timm.is_model(rest):
        return _spec(recognizer, rest)
    raise DataError(
        f"--model {name!r} is not known. Known are {EXAMPLES} and what else `reskd models list` "
        "shows, and tsn_ or tsm_ with the name of any timm model."
    )


def _spec(recognizer: str, backbone: str) -> ModelSpec:
    fields: dict[str, Any] = {"recognizer": recognizer, "backbone": backbone}
    return TypeAdapter(ModelSpec).validate_python(fields)


def short_name(recognizer: str, backbone: str) -> str:
    """The short name of a model: the reverse of `model_spec`."""
    if recognizer in ("swin3d", "torchvision"):
        return backbone
    if recognizer == "transformers":
        return f"{recognizer}:{backbone}"
    short = f"r{plain[1]}" if (plain := _PLAIN_RESNET.fullmatch(backbone)) else backbone
    return f"{recognizer}_{short}"


def is_generic(spec: ModelSpec) -> bool:
    """Whether the backbone is some timm model whose tensors carry timm's names already."""
    network = spec.backbone.partition(".")[0]
    return spec.recognizer in ("tsn", "tsm") and not _PLAIN_RESNET.fullmatch(network)


def plain_head(spec: ModelSpec) -> str | None:
    """Prefix of a generic timm model's classifier in its own files; None where it is not ours."""
    head = head_of(spec.backbone, spec.backbone_args)
    return head.classifier[0].removesuffix("weight") if head.plain else None


def own_classifier(spec: ModelSpec) -> tuple[str, ...]:
    """Tensors of a generic timm model that have a row for each class, inside its own head."""
    head = head_of(spec.backbone, spec.backbone_args)
    return () if head.plain else head.classifier


def generic_candidate(part: Part, spec: ModelSpec) -> Candidate:
    """The tensors of a timm model that was named, under timm's names."""
    return Candidate(
        recognizers=("tsn", "tsm") if part.layout == "plain" else (spec.recognizer,),
        backbone=spec.backbone,
        described=f"timm's {spec.backbone}",
        names=part.backbone,
    )


def is_renamed(keys: Iterable[str]) -> bool:
    """Whether the names are those of a port of timm's networks, so that --model cannot fit them."""
    return any(key.endswith(STEM) for key in keys)


class UnrecognisedError(DataError):
    """The names are those of no network this program has."""


def identify(part: Part, shapes: Shapes) -> Candidate:
    """Tell by names and shapes what a network is.

    Args:
        part: The network's keys.
        shapes: Shapes of all tensors by the file's keys.

    Raises:
        UnrecognisedError: If the names say nothing.
        DataError: If it is a network this program does not have.
    """
    inside = {name: shapes[key] for name, key in part.backbone.items()}
    if STEM in inside:
        return _efficientnet(part, inside)
    if any(name.endswith("attn.relative_position_bias_table") for name in inside):
        return _swin(part, inside)
    if any(name.startswith(_RESNET_STARTS) for name in inside):
        return _resnet(part, inside)
    if "stem.0.weight" in inside or len(inside.get("features.0.0.0.weight", ())) == 5:
        return _torchvision(part, inside)
    if "pos_encoding.class_token" in inside:
        raise DataError(
            "it holds an MViT, whose classifier reads a token that models here do not have. Start "
            "from torchvision's weights in training instead: recognizer: torchvision, pretrained: "
            "true."
        )
    raise UnrecognisedError(f"no network known has such names: {list(inside)[:6]}")


def _efficientnet(part: Part, inside: Shapes) -> Candidate:
    size = efficientnet_size(inside)
    renamed = {} if size is None else timm_efficientnet_names(inside, size)
    return Candidate(
        recognizers=("tsn",),
        backbone=None if size is None else f"tf_efficientnet_{size}",
        described="an EfficientNet that pads as TensorFlow does",
        names=_reversed(part, renamed),
        of_images=True,
    )


def _swin(part: Part, inside: Shapes) -> Candidate:
    renamed = video_swin_names(inside)
    shapes = {ours: inside[theirs] for theirs, ours in renamed.items()}
    images = len(shapes.get("patch_embed.proj.weight", ())) == 4
    return Candidate(
        recognizers=("swin3d",),
        backbone=swin_backbone(shapes),
        described="a Swin transformer of images" if images else "a video Swin transformer",
        names=_reversed(part, renamed),
        of_images=images,
    )


def _resnet(part: Part, inside: Shapes) -> Candidate:
    renamed = {name: timm_resnet_name(name) for name in inside}
    recognizers: tuple[str, ...]
    images = False
    stem = next((shape for name, shape in inside.items() if renamed[name] == "conv1.weight"), ())
    if place := shifts_elsewhere(inside):
        raise DataError(
            f"it holds a ResNet whose temporal shifts are not where TSM has them ({place}). Models "
            "here shift before the first convolution of each block, of every second one in deep "
            "networks."
        )
    if len(stem) == 5:
        recognizers, described = ("slowonly",), "a ResNet with kernels over time"
    elif is_shifted(inside):
        recognizers, described = ("tsm",), "a ResNet with temporal shifts"
    elif part.layout == "plain":
        recognizers, described, images = _OVER_FRAMES, "a ResNet of images", True
    else:
        recognizers, described = ("tsn",), "a ResNet without temporal shifts"
    return Candidate(
        recognizers=recognizers,
        backbone=resnet_backbone(renamed.values()),
        described=described,
        names=_reversed(part, renamed),
        of_images=images,
    )


def _torchvision(part: Part, inside: Shapes) -> Candidate:
    if "stem.0.weight" not in inside:
        name = "s3d"
    elif "stem.3.weight" in inside:
        name = "r2plus1d_18"
    else:  # they differ in the kernels after the first stage
        kernel = inside.get("layer2.0.conv1.0.weight", ())[2:]
        name = "mc3_18" if kernel == (1, 3, 3) else "r3d_18"
    return Candidate(
        recognizers=("torchvision",),
        backbone=name,
        described=f"torchvision's {name}",
        names=part.backbone,
    )


def _reversed(part: Part, renamed: Mapping[str, str]) -> dict[str, str]:
    """Name here -> key in the file.

    Raises:
        DataError: If two keys of the file would become one tensor.
    """
    names: dict[str, str] = {}
    for theirs, ours in renamed.items():
        earlier = names.setdefault(ours, part.backbone[theirs])
        if earlier != part.backbone[theirs]:
            raise DataError(
                f"it holds one tensor under two names: {earlier} and {part.backbone[theirs]}."
            )
    return names


def decide(candidate: Candidate, wanted: ModelSpec | None) -> ModelSpec:
    """The model to fill: what the tensors are, unless `--model` names one they fit as well.

    Raises:
        DataError: If they are another network than the one named, or none was named and more than
            one would do.
    """
    found = candidate.described
    if candidate.backbone is None:
        raise DataError(
            f"it holds {found}, of a size this program does not know. Known are {EXAMPLES}."
        )
    if wanted is None:
        name = short_name(candidate.recognizers[0], candidate.backbone)
        if candidate.recognizers == ("swin3d",) and candidate.of_images:
            raise DataError(f"it holds {found}. Say --model {name} to start that network from it.")
        return _spec(candidate.recognizers[0], candidate.backbone)
    # A timm name may go on with the weights it was pretrained by: resnet50.tv_in1k.
    network, found_network = (
        name.partition(".")[0] for name in (wanted.backbone, candidate.backbone)
    )
    if wanted.recognizer in candidate.recognizers and network == found_network:
        return wanted
    fitting = [short_name(recognizer, candidate.backbone) for recognizer in candidate.recognizers]
    raise DataError(
        f"--model {short_name(wanted.recognizer, wanted.backbone)} contradicts the file, which "
        f"holds {found}: {' or '.join(fitting)}. Name that, or leave --model out."
    )
