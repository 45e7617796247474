"""From a model's spec to the model, and to its shapes and cost without weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.frame_backbone import FrameBackbone, head_of
from reskd.common.models.kinetics_weights import kinetics_weights
from reskd.common.models.linear_recognizer import LinearRecognizer
from reskd.common.models.own_network import OwnRecognizer, own_network
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.slowonly import SlowOnlyBackbone
from reskd.common.models.swin3d import Swin3DBackbone
from reskd.common.models.temporal_shift import TSM
from reskd.common.models.torchvision_video import TorchvisionBackbone
from reskd.common.models.transformers_families import FAMILIES
from reskd.common.models.transformers_video import TransformersRecognizer
from reskd.common.models.tsn import TSN, OwnHeadTSN
from reskd.common.video.preprocess import IMAGENET, Colours, colours_of


def build_model(spec: ModelSpec, *, num_classes: int) -> Recognizer:
    """Make a recognizer; its random weights come from torch's global generator.

    Raises:
        ExperimentError: If the backbone or one of its arguments is unknown, does not fit the
            recognizer, or its pretrained weights cannot be had.
    """
    model = _network(spec, num_classes=num_classes)
    own = own_colours(spec, model)
    model.colours = colours_of(spec.mean or own.mean, spec.std or own.std)
    return model


def _network(spec: ModelSpec, *, num_classes: int) -> Recognizer:
    if spec.recognizer == "python":
        return own_network(spec, num_classes=num_classes)
    if spec.recognizer == "tsn":
        head = head_of(spec.backbone, frame_args(spec))
        if not head.plain:
            return OwnHeadTSN(_frame_classifier(spec, num_classes=num_classes), head)
    if spec.recognizer == "transformers":
        return _of_transformers(spec, num_classes=num_classes)
    recognizer, backbone = _parts(spec)
    model = recognizer(backbone, num_classes=num_classes, dropout=spec.dropout)
    if spec.recognizer == "tsm":
        _require_plain_head(spec)
    return model


def _of_transformers(spec: ModelSpec, *, num_classes: int) -> TransformersRecognizer:
    if spec.pretrained:
        raise ExperimentError(
            "recognizer transformers knows no weights by the name of a backbone, so pretrained "
            "must be false. Make a checkpoint directory with `reskd import-checkpoint` of a folder "
            "or of a repository on the hub, and name it as teacher.checkpoint or model.start."
        )
    return TransformersRecognizer(
        spec.backbone,
        num_classes=num_classes,
        dropout=spec.dropout,
        drop_path=spec.drop_path,
        args=dict(spec.backbone_args),
    )


def timm_facts(model: Recognizer) -> Mapping[str, Any]:
    """What timm says of the weights of its model's name and tag; nothing where it is not timm's."""
    about: Mapping[str, Any] = getattr(model.get_submodule("backbone.model"), "pretrained_cfg", {})
    return about


def own_colours(spec: ModelSpec, model: Recognizer | None = None) -> Colours:
    """Mean and std with which the weights that timm or torchvision has were trained.

    A network of the user's says them itself.

    Args:
        spec: The model.
        model: The network, where it is at hand.
    """
    if spec.recognizer == "torchvision":
        presets = kinetics_weights(spec.backbone).transforms()
        return colours_of(presets.mean, presets.std)
    if spec.recognizer == "transformers":
        return colours_of(*FAMILIES[spec.backbone].colours)
    if isinstance(model, OwnRecognizer):
        return model.colours
    about = timm_facts(meta_model(spec, num_classes=1) if model is None else model)
    return colours_of(about.get("mean") or IMAGENET.mean, about.get("std") or IMAGENET.std)


def frame_args(spec: ModelSpec) -> dict[str, Any]:
    """What timm is told beside the name of a network of frames."""
    # Not every model of timm knows the argument, so it is named only where it is wanted.
    drop_path = {"drop_path_rate": spec.drop_path} if spec.drop_path else {}
    return {**spec.backbone_args, **drop_path}


def _require_plain_head(spec: ModelSpec) -> None:
    if not head_of(spec.backbone, frame_args(spec)).plain:
        raise ExperimentError(
            f"tsm takes networks that classify the mean of their feature map by one linear layer; "
            f"{spec.backbone} with backbone_args: {spec.backbone_args} has a head of its own. Take "
            "a backbone such as resnet50, or recognizer: tsn."
        )


def _frame_classifier(spec: ModelSpec, *, num_classes: int) -> FrameBackbone:
    """The network with its own head; a rate among backbone_args goes before `dropout`."""
    dropout = {} if "drop_rate" in spec.backbone_args else {"drop_rate": spec.dropout}
    return FrameBackbone(
        spec.backbone,
        pretrained=spec.pretrained,
        args=frame_args(spec),
        settings={"num_classes": num_classes, **dropout},
    )


def _parts(spec: ModelSpec) -> tuple[type[LinearRecognizer], nn.Module]:
    match spec.recognizer:
        case "tsn":
            return TSN, _frame_backbone(spec)
        case "tsm":
            return TSM, _frame_backbone(spec)
        case "slowonly":
            return LinearRecognizer, SlowOnlyBackbone(_frame_backbone(spec))
        case "swin3d":
            return LinearRecognizer, _clip_backbone(Swin3DBackbone, spec)
        case "torchvision":
            return LinearRecognizer, _clip_backbone(TorchvisionBackbone, spec)
        case "transformers":
            raise AssertionError("made by _of_transformers")
        case "python":
            raise AssertionError("a network of the user's is no backbone")


def _frame_backbone(spec: ModelSpec) -> FrameBackbone:
    args = frame_args(spec)
    if spec.recognizer in ("tsn", "tsm"):  # a plain head pools as these do, whatever it calls it
        args.pop("global_pool", None)
    return FrameBackbone(spec.backbone, pretrained=spec.pretrained, args=args)


def _clip_backbone(
    kind: type[Swin3DBackbone] | type[TorchvisionBackbone], spec: ModelSpec
) -> nn.Module:
    return kind(
        spec.backbone,
        pretrained=spec.pretrained,
        drop_path=spec.drop_path,
        args=dict(spec.backbone_args),
    )


@dataclass(frozen=True, slots=True)
class Complexity:
    """Shapes and cost of a recognizer for one clip of T square frames."""

    feature_shape: tuple[int, int, int, int]
    """(T, C, h, w) of its feature map; C is 0 where it has none."""
    gives_logit_map: bool
    """Whether its classifier may be asked at every location of that map."""
    gmacs: float
    """Multiply-accumulate operations per clip, in 1e9."""
    parameters: int
    """Trainable numbers."""
    stage_names: tuple[str, ...]
    """Stages of its backbone, first to last."""


def meta_model(spec: ModelSpec, *, num_classes: int) -> Recognizer:
    """The recognizer in eval mode on the meta device: shapes, no weights.

    One of the user's whose code asks for numbers is on the CPU.
    """
    try:
        return _shape_model(spec, num_classes=num_classes, device="meta")
    except ExperimentError:
        if spec.recognizer != "python":
            raise
        return _shape_model(spec, num_classes=num_classes, device="cpu")


def _shape_model(spec: ModelSpec, *, num_classes: int, device: str) -> Recognizer:
    """The recognizer to be asked for shapes; building it draws no number of anybody else's."""
    with torch.device(device), torch.random.fork_rng(devices=[]):
        return build_model(replace(spec, pretrained=False), num_classes=num_classes).eval()


def complexity(spec: ModelSpec, *, num_classes: int, num_frames: int, size: int) -> Complexity:
    """Count on the meta device: shapes only, no weights, no arithmetic.

    A command asks several times for the same network; it is counted once per process.

    Args:
        spec: The model.
        num_classes: K.
        num_frames: T.
        size: Side of its frames in pixels.

    Raises:
        ExperimentError: If there is no such model, or if it makes no feature map of such clips.
    """
    # Where its weights come from has no part in the cost.
    return _counted(replace(spec, pretrained=False, start=None), num_classes, num_frames, size)


@lru_cache(maxsize=256)
def _counted(spec: ModelSpec, num_classes: int, num_frames: int, size: int) -> Complexity:
    if spec.recognizer == "python":
        try:
            return _counted_on("meta", spec, num_classes, num_frames, size)
        except ExperimentError:  # a user's code may ask for numbers: one clip of zeros has some
            return _counted_on("cpu", spec, num_classes, num_frames, size)
    return _counted_on("meta", spec, num_classes, num_frames, size)


def _counted_on(
    device: str, spec: ModelSpec, num_classes: int, num_frames: int, size: int
) -> Complexity:
    model = _shape_model(spec, num_classes=num_classes, device=device)
    counter = FlopCounterMode(display=False)
    with torch.device(device), torch.no_grad():
        try:
            with counter:
                output = model(torch.zeros(1, num_frames, 3, size, size))
            gives_map = model.gives_logit_map and output.features_BTChw.shape[2] > 0
            if isinstance(model, OwnRecognizer) and gives_map:
                model.logit_map(output.features_BTChw)  # refuses what has another shape
        except ExperimentError:  # the backbone knows what it takes and has said so
            raise
        except Exception as error:  # every family of backbones refuses sizes in its own way
            raise ExperimentError(
                f"{spec.backbone} makes no feature map of {size} px frames, {num_frames} to a clip "
                f"({type(error).__name__}: {error}). {_remedy(spec, size)}"
            ) from error
    _, frames, channels, height, width = output.features_BTChw.shape
    return Complexity(
        feature_shape=(frames, channels, height, width),
        gives_logit_map=gives_map,
        gmacs=counter.get_total_flops() / 2 / 1e9,  # the counter takes two operations per MAC
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        stage_names=model.stage_names,
    )


def _remedy(spec: ModelSpec, size: int) -> str:
    if spec.recognizer == "python":
        return "It is yours: make it take such clips, or give it others."
    if spec.recognizer in ("swin3d", "torchvision"):
        return "Give it more frames or larger ones."
    return (
        "If it is a transformer made for one size, set its backbone_args: "
        f"{{img_size: {size}}}; else try another backbone or size."
    )
