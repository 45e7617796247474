"""How a timm model classifies, found out by numbers: never by its name or its layers' names.

| kind | the model's own head | what TSN does |
|---|---|---|
| plain | one linear layer on the mean over the feature map | that layer is ours: `classifier` |
| own, linear over frames | of a mean of frames the mean of their scores | averages features |
| own | anything: class tokens, norms after pooling, hidden layers, maxima | averages scores |

The model is built on the meta device, without weights. Hooks tell which of its modules the head
runs; these alone get random numbers on the CPU, statistics of BatchNorm included, and the head
scores random features in float64. Whatever cannot be decided so counts as own and not linear,
which is right for every model: scores of frames, averaged. So does a head with BatchNorm, though it
is linear: trained on averages it would see one row per clip, and fail on a single clip.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

_CLASSES: Final = 1013
"""Prime and of no layer's width: a tensor has a side of this length because of the classes."""
_FRAMES: Final = 3
_TOLERANCE: Final = 1e-8
"""Relative, in float64; what differs at all differs by a thousandth and more."""
_FULL: Final = ("num_classes", "global_pool")

RawFeatures = Any
"""What forward_features returns: a tensor, or a list or tuple of tensors, of N frames each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimmHead:
    """How the model of a name and arguments classifies."""

    plain: bool
    """One linear layer on the mean over the feature map, all else as without a head."""
    linear_over_frames: bool
    """Whether the scores of a mean of features are the mean of the frames' scores (eval mode), and
    it learns from either alike."""
    classifier: tuple[str, ...]
    """Names of its tensors that have a row for each class."""


def timm_head(name: str, args: Mapping[str, Any]) -> TimmHead:
    """Decide once per process.

    Args:
        name: Of a timm model, perhaps with the tag of its weights.
        args: Further arguments of timm.create_model.

    Raises:
        Exception: Whatever timm raises for arguments or sizes that it does not take.
    """
    return _decided(name, json.dumps(dict(args), sort_keys=True, default=str), _Args(dict(args)))


class _Args:
    """Arguments beside the text that stands for them as a key."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Args)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=256)
def _decided(name: str, key: str, args: _Args) -> TimmHead:
    with _drawing_apart():
        with torch.device("meta"), torch.no_grad():
            model: Any = timm.create_model(name, num_classes=_CLASSES, **args.values)
            model.eval()
            size = frame_size(model, args.values)
            features = model.forward_features(torch.empty(_FRAMES, 3, *size))
            used = _modules_of_head(model, features)
        classifier = tuple(
            name for name, value in model.state_dict().items() if _CLASSES in value.shape
        )
        try:
            with torch.device("cpu"), torch.no_grad():
                _materialise(model, used)
                drawn = tree_map(_drawn_like, features)
                scores = scores_of(model, drawn)
                together = scores_of(model, mean_of_frames(drawn, _FRAMES))
                normed = any(isinstance(model.get_submodule(one), _BatchNorm) for one in used)
                linear = not normed and _equal(together, scores.mean(dim=0))
                plain = linear and _is_plain(model, drawn, scores, classifier)
        except (RuntimeError, NotImplementedError, TypeError, AttributeError):
            plain = linear = False
        if plain:
            plain = _same_without_head(name, args.values, model, classifier)
    return TimmHead(plain=plain, linear_over_frames=linear, classifier=classifier)


@contextmanager
def _drawing_apart() -> Iterator[None]:
    """Random numbers of its own; those that training draws stay what they would have been."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def frame_size(model: Any, args: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the frames that a timm model is made for, in pixels."""
    size = args.get("img_size") or model.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def scores_of(model: Any, features: RawFeatures) -> Tensor:
    """The head's class scores, (N, K); two heads (distillation) are averaged in training too."""
    scores = model.forward_head(features)
    if isinstance(scores, tuple | list):
        return torch.stack(list(scores)).mean(dim=0)
    assert isinstance(scores, Tensor)
    return scores


def mean_of_frames(features: RawFeatures, num_frames: int) -> RawFeatures:
    """Features of N = B * num_frames frames, averaged over those of a clip."""
    return tree_map(lambda part: part.unflatten(0, (-1, num_frames)).mean(dim=1), features)


def map_of_features(model: Any, features: RawFeatures) -> Tensor | None:
    """Features laid out as (N, C, h, w); None where they are no map of square frames.

    Vision transformers: class and register tokens are dropped, patches laid out again.
    """
    if not isinstance(features, Tensor):
        return None
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if _is_channels_last(model) else features
    if features.ndim != 3:
        return None
    patches_NLC = features[:, getattr(model, "num_prefix_tokens", None) or 0 :]
    count, length, channels = patches_NLC.shape
    side = int(length**0.5 + 0.5)  # frames are square, so the grid is
    if side * side != length:
        return None
    return patches_NLC.transpose(1, 2).reshape(count, channels, side, side)


def _is_channels_last(model: Any) -> bool:
    return bool(getattr(model, "output_fmt", "NCHW") == "NHWC")


def _modules_of_head(model: Any, features: RawFeatures) -> set[str]:
    """Names of the modules that are called between features and scores."""
    called: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: called.append(module))
        for _, module in model.named_modules()
    ]
    model.forward_head(features)
    for hook in hooks:
        hook.remove()
    return {name for name, module in model.named_modules() if module in called}


def _materialise(model: nn.Module, used: set[str]) -> None:
    """Random float64 numbers for the modules that are named, and for what the model itself owns."""
    for name, module in model.named_modules():
        if name and not any(name == one or name.startswith(f"{one}.") for one in used):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            value = 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
            setattr(module, key, nn.Parameter(value, requires_grad=False))
        for key, buffer in module.named_buffers(recurse=False):
            if key == "running_var":
                setattr(module, key, torch.rand(buffer.shape, dtype=torch.float64) + 0.5)
            elif buffer.is_floating_point():
                setattr(module, key, torch.randn(buffer.shape, dtype=torch.float64))
            elif name and key != "num_batches_tracked":
                raise NotImplementedError(f"{name}.{key} cannot be drawn")


def _drawn_like(part: Tensor) -> Tensor:
    return torch.randn(part.shape, dtype=torch.float64)


def _equal(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return bool(float((found - expected).abs().max()) <= _TOLERANCE * scale)


def _is_plain(
    model: nn.Module, features: RawFeatures, scores: Tensor, classifier: tuple[str, ...]
) -> bool:
    """Whether the scores are one matrix, with a bias, times the mean over the feature map."""
    features_NChw = map_of_features(model, features)
    owner = classifier[0].removesuffix(".weight") if classifier else ""
    if features_NChw is None or classifier != (f"{owner}.weight", f"{owner}.bias"):
        return False
    weight, bias = (model.get_parameter(name) for name in classifier)
    pooled_NC = features_NChw.mean(dim=(2, 3))
    if weight.numel() != _CLASSES * pooled_NC.shape[1]:
        return False
    return _equal(pooled_NC @ weight.flatten(1).T + bias, scores)


def _same_without_head(
    name: str, args: Mapping[str, Any], model: nn.Module, classifier: tuple[str, ...]
) -> bool:
    """Whether timm can leave the classifier out, and leaves out nothing else."""
    others = {key: value for key, value in args.items() if key not in _FULL}
    try:
        with torch.device("meta"):
            bare = timm.create_model(name, num_classes=0, global_pool="", **others)
    except Exception:  # noqa: BLE001 - each family refuses in its own way
        return False
    return {*bare.state_dict()} == {*model.state_dict()} - {*classifier}
