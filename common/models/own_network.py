"""Networks of the user's as recognizers: `recognizer: python, backbone: "package.module:build"`.

`build(num_classes=K, **backbone_args)` returns a torch module, and that is all there must be:

    forward(clips_BT3HW)     float32 clips, normalised, to (features, logits): the feature map
                             (B, T', C, h, w), or None where there is none, and scores (B, K)
    mean, std                of its input, three numbers each; without them ImageNet's
    logit_map(features)      scores at every location of a feature map, (B, T', h, w, K)
    num_features             C; asked of students that learn from feature maps
    classifier_tensors       names of the weights with a row per class; without them those whose
                             shape follows num_classes

The last four may be left out. Mean and std of the experiment come before those of the network.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from reskd.common.errors import ExperimentError
from reskd.common.experiment import ModelSpec
from reskd.common.models.recognizer import ClipOutput, Recognizer
from reskd.common.own_code import own_code, source_digest
from reskd.common.video.preprocess import IMAGENET, Colours, colours_of


class OwnRecognizer(Recognizer):
    """A recognizer around a network of the user's.

    Args:
        network: What `build` returned.
        spec: The model.
        num_classes: K.

    Raises:
        ExperimentError: If mean, std or num_features of the network are not such.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec, *, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.stage_names = tuple(name for name, _ in network.named_children())
        self.gives_logit_map = callable(getattr(network, "logit_map", None))
        self.colours = _own_colours(spec.backbone, network)
        self._spec, self._num_classes = spec, num_classes
        channels = getattr(network, "num_features", None)
        if channels is not None:
            self.num_features = int(channels)

    def __getattr__(self, name: str) -> Any:
        if name == "num_features":
            raise ExperimentError(
                f"{self._spec.backbone} does not say how many channels its feature map has, which "
                "a student that learns from feature maps must: give the network num_features."
            )
        return super().__getattr__(name)

    @property
    def classifier_tensors(self) -> frozenset[str]:
        stated = getattr(self.network, "classifier_tensors", None)
        names = _following_classes(self._spec, self._num_classes) if stated is None else stated
        return frozenset(f"network.{name}" for name in names)

    def forward(self, clips_BT3HW: Tensor) -> ClipOutput:
        output = self.network(clips_BT3HW)
        if not torch.compiler.is_compiling():
            self._check_output(output, clips_BT3HW)
        features_BTChw, logits_BK = output
        if features_BTChw is None:
            features_BTChw = logits_BK.new_zeros((*clips_BT3HW.shape[:2], 0, 0, 0))
        return ClipOutput(features_BTChw, logits_BK)

    def logit_map(self, features_BTChw: Tensor) -> Tensor:
        scores_BThwK: Tensor = self.network.logit_map(features_BTChw)  # type: ignore[operator]
        shape = features_BTChw.shape
        wanted = (*shape[:2], *shape[3:], self._num_classes)
        if not torch.compiler.is_compiling() and tuple(scores_BThwK.shape) != wanted:
            raise ExperimentError(
                f"The logit map of {self._spec.backbone} has shape {_shape(scores_BThwK)} for a "
                f"feature map of {tuple(shape)}; (B, T', h, w, K) is {wanted}."
            )
        return scores_BThwK

    def _check_output(self, output: Any, clips_BT3HW: Tensor) -> None:
        name, clips = self._spec.backbone, len(clips_BT3HW)
        if not isinstance(output, tuple | list) or len(output) != 2:
            raise ExperimentError(
                f"{name} returns {_kind(output)} for clips of {_shape(clips_BT3HW)}; a pair "
                "(features, logits) is wanted, with None for features it does not make."
            )
        features, logits = output
        wanted = (clips, self._num_classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            raise ExperimentError(
                f"The logits of {name} are {_kind(logits)} for clips of {_shape(clips_BT3HW)}; "
                f"(B, K) is {wanted}."
            )
        if features is None:
            return
        if not isinstance(features, Tensor) or features.ndim != 5 or len(features) != clips:
            raise ExperimentError(
                f"The features of {name} are {_kind(features)} for clips of {_shape(clips_BT3HW)}; "
                f"(B, T', C, h, w) with B = {clips} is wanted."
            )
        stated = self.__dict__.get("num_features")
        if stated not in (None, features.shape[2]):
            raise ExperimentError(
                f"{name} states num_features {stated}, and the features it makes are "
                f"{_shape(features)}, (B, T', C, h, w), with C = {features.shape[2]}."
            )


def own_network(spec: ModelSpec, *, num_classes: int) -> OwnRecognizer:
    """Call the user's `build` and wrap what comes back.

    Raises:
        ExperimentError: If there is no such code, it is not trusted, it fails, or it returns
            something else than a torch module.
    """
    return OwnRecognizer(_built(spec, num_classes), spec, num_classes=num_classes)


def own_source(spec: ModelSpec, *, num_classes: int) -> str:
    """Digest of the files of the package that the network's classes are from.

    Raises:
        ExperimentError: See `own_network`.
    """
    build = own_code("recognizers", spec.backbone)
    network = _for_shapes(spec, num_classes)
    return source_digest(build, {type(module) for module in network.modules()})


def _built(spec: ModelSpec, num_classes: int) -> nn.Module:
    build = own_code("recognizers", spec.backbone)
    try:
        network = build(num_classes=num_classes, **spec.backbone_args)
    except Exception as error:
        raise ExperimentError(
            f"{spec.backbone}(num_classes={num_classes}, {_arguments(spec.backbone_args)}) fails: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ExperimentError(
            f"{spec.backbone} returns {_kind(network)}; a torch.nn.Module is wanted."
        )
    return network


def _for_shapes(spec: ModelSpec, num_classes: int) -> nn.Module:
    """The network without numbers, or with them where its code cannot do without."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _built(spec, num_classes)
        except ExperimentError:
            return _built(spec, num_classes)


@lru_cache(maxsize=256)
def _following_classes(spec: ModelSpec, num_classes: int) -> frozenset[str]:
    """Tensors whose shape is another for one class more."""
    one, more = (_for_shapes(spec, count).state_dict() for count in (num_classes, num_classes + 1))
    return frozenset(
        name for name, tensor in one.items() if name in more and more[name].shape != tensor.shape
    )


def _own_colours(name: str, network: nn.Module) -> Colours:
    numbers: dict[str, tuple[float, ...]] = {}
    for field, default in (("mean", IMAGENET.mean), ("std", IMAGENET.std)):
        value = getattr(network, field, None)
        if value is None:
            numbers[field] = default
            continue
        try:
            numbers[field] = tuple(float(number) for number in value)
        except (TypeError, ValueError):
            numbers[field] = ()
        low = 0 if field == "mean" else 1e-6
        if len(numbers[field]) != 3 or not all(low <= one <= 1 for one in numbers[field]):
            raise ExperimentError(
                f"{field} of {name} is {value!r}; three numbers for red, green and blue are "
                "wanted, of values from 0 to 1."
            )
    return colours_of(numbers["mean"], numbers["std"])


def _arguments(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in args.items())


def _kind(value: Any) -> str:
    """What something is, for messages: of tensors the shape, of tuples that of each part."""
    if isinstance(value, Tensor):
        return f"of shape {_shape(value)}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
