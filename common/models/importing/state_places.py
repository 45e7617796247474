"""Where in a file's content the named tensors of a network lie.

| program | place |
|---|---|
| mmcv, mmengine, timm, Lightning | `state_dict` |
| torchvision's scripts, Swin, fairseq | `model` |
| PySlowFast | `model_state` |
| the tutorials of PyTorch | `model_state_dict` |
| DeepSpeed | `module` |

Where they lie under none of these, any dict of nothing but tensors is taken, if it is the only one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.models.importing.averages import (
    averages,
    holds_tensors,
    is_average,
    split_buffers,
    takes_average_for_weights,
    without_count,
)
from reskd.common.models.importing.file_kinds import resave_command
from reskd.common.models.importing.placeholders import Placeholder

RAW, AVERAGE = "raw", "ema"
_WRAPPERS: Final = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "network",
    "model_dict",
    "net_state_dict",
    "params",
    "weights",
)
_NO_NETWORK: Final = re.compile(
    r".*(?:optim|sched|scaler|amp|loop|callback|rng|random|metric|loss|criterion|param_groups"
    r"|hyper|config|cfg|args|meta|log|history|buffer|queue|hub).*",
    re.IGNORECASE,
)
_DEEPEST: Final = 4
_MOST_REPEATED: Final = 100
_SHOWN: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Something of a file that may be the weights."""

    place: str
    """Its keys from the top, joined by dots; empty for the top itself."""
    value: Any
    """A mapping, or an object that was not loaded, with tensors somewhere in it."""
    average: bool = False
    """Whether it is a moving average of the weights."""

    @property
    def pickled(self) -> bool:
        """Whether it is no mapping."""
        return not isinstance(self.value, Mapping)


def choose_state(content: Any, weights: str | None, *, path: object) -> dict[str, Tensor]:
    """The named tensors of the one network in a file.

    Args:
        content: What the file holds.
        weights: `raw` or `ema` where it holds both, or the place of those wanted; None where there
            is no choice.
        path: The file, for the command that a message gives.

    Raises:
        DataError: If there are none, if they lie within an object that was not loaded, or if there
            are several and nobody says which.
    """
    if isinstance(content, Placeholder):
        raise DataError(_pickled_text(Found(place="", value=content), path))
    if not isinstance(content, Mapping):
        raise DataError(
            f"holds {type(content).__name__}, not a dict of named tensors. Save "
            "model.state_dict() instead of the model."
        )
    found = _found(content)
    if not found:
        raise DataError(_nothing_text(content))
    if all(each.pickled for each in found):
        raise DataError(_pickled_text(found[0], path))
    chosen = _distinct(_wanted(found, weights, content))
    if len(chosen) > 1:
        raise DataError(_several_text(chosen))
    if chosen[0].pickled:
        raise DataError(_pickled_text(chosen[0], path))
    return _unmixed(_checked(chosen[0], content), weights)


def _found(content: Mapping[Any, Any]) -> list[Found]:
    """What lies under the keys programs are known to use, else at the top, else anywhere."""
    raw = list(_under_wrappers(content, ""))
    if not raw and any(isinstance(value, Tensor) for value in content.values()):
        raw = [Found(place="", value=content)]
    raw = raw or list(_anywhere(content, ""))
    averaged = [
        each
        for place, value in averages(content)
        for each in _opened(place, value, average=True)
        if not any(each.value is other.value for other in raw)
    ]
    if takes_average_for_weights(content):
        return [replace(each, average=not each.average) for each in [*raw, *averaged]]
    return [*raw, *averaged]


def _under_wrappers(content: Mapping[Any, Any], place: str) -> Iterator[Found]:
    for key, value in content.items():
        if key in _WRAPPERS and isinstance(value, Mapping | Placeholder) and holds_tensors(value):
            yield from _opened(f"{place}{key}", value, average=False)


def _opened(place: str, value: Any, *, average: bool) -> list[Found]:
    """Itself, or what it wraps in turn."""
    here = [Found(place=place, value=value, average=average)]
    if not isinstance(value, Mapping) or any(isinstance(each, Tensor) for each in value.values()):
        return here
    deeper = [replace(each, average=average) for each in _under_wrappers(value, f"{place}.")]
    return deeper or here


def _anywhere(content: Mapping[Any, Any], place: str) -> Iterator[Found]:
    """Dicts of nothing but tensors and objects, without what trains the network."""
    for key, value in content.items():
        inner = f"{place}{key}"
        if _NO_NETWORK.fullmatch(str(key)) or is_average(key):
            continue
        whole = isinstance(value, Mapping) and all(map(_is_plain_tensor, value.values()))
        if (whole or isinstance(value, Placeholder)) and holds_tensors(value):
            yield Found(place=inner, value=value)
        elif isinstance(value, Mapping) and inner.count(".") < _DEEPEST:
            yield from _anywhere(value, f"{inner}.")


def _wanted(found: list[Found], weights: str | None, content: Mapping[Any, Any]) -> list[Found]:
    raw = [each for each in found if not each.average]
    averaged = [each for each in found if each.average]
    if weights is None:
        if raw and len(_distinct(found)) > len(_distinct(raw)):
            raise DataError(_both_text(_names(raw), _names(averaged)))
        return raw or averaged
    if weights == RAW:
        chosen = raw
    elif weights == AVERAGE:
        # Where mmcv mixes the two in one dict, nothing is called an average.
        chosen = averaged or [each for each in raw if _is_mixed(each)]
    else:
        every = [*found, *_anywhere(content, "")]
        chosen = [each for each in every if each.place == weights][:1]
    if not chosen:
        raise DataError(
            f"has nothing that --weights {weights} would be. It holds {_places(found)}: name one "
            "of these by its place, or leave --weights out."
        )
    return chosen


def _distinct(found: list[Found]) -> list[Found]:
    """Each set of tensors once: some programs name the same ones twice."""
    distinct: list[Found] = []
    for each in found:
        if not any(_same(each.value, other.value) for other in distinct):
            distinct.append(each)
    return distinct


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is other
    return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)


def _equal(one: Any, other: Any) -> bool:
    if not _is_plain_tensor(one) or not _is_plain_tensor(other):
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def _checked(chosen: Found, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The state, whose every value is a tensor; what layers note besides may be anything."""
    state = {str(name): value for name, value in chosen.value.items()}
    tensors = {name: value for name, value in state.items() if _is_plain_tensor(value)}
    odd = [name for name in state if name not in tensors and not name.endswith("_extra_state")]
    if odd or not tensors:
        raise DataError(_no_state_text(odd or ["nothing"], chosen.place, content))
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _unmixed(state: dict[str, Tensor], weights: str | None) -> dict[str, Tensor]:
    """The state without the buffers of averaging."""
    average, trained = split_buffers(without_count(state))
    if not trained:
        return average
    if weights not in (RAW, AVERAGE):
        raise DataError(_both_text("the names ema_...", "the network's own names"))
    return trained if weights == RAW else average


def _is_mixed(found: Found) -> bool:
    return isinstance(found.value, Mapping) and bool(split_buffers(found.value)[1])


def _is_plain_tensor(value: object) -> bool:
    """Strided, and not a few numbers that claim to be a great many."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return value.numel() <= _MOST_REPEATED * max(1, value.untyped_storage().nbytes())


def _nothing_text(content: Mapping[Any, Any]) -> str:
    empty = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    return _no_state_text(empty[:1] or [str(key) for key in content] or ["nothing"], "", content)


def _no_state_text(odd: list[str], place: str, content: Mapping[Any, Any]) -> str:
    keys = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
    return (
        f"has no state dict{f' under {place}' if place else ''}: {', '.join(odd[:_SHOWN])} "
        f"{'are' if len(odd) > 1 else 'is'} no tensor or empty. At its top are: {keys}. Expected "
        "are named tensors, at the top or under `state_dict`, `model` and the like; --weights KEY "
        "names another place."
    )


def _both_text(raw: str, averaged: str) -> str:
    return (
        f"holds the weights as trained ({raw}) and a moving average of them ({averaged}). Say "
        "which with --weights raw or --weights ema."
    )


def _several_text(found: list[Found]) -> str:
    usable = next((each for each in found if not each.pickled), found[0])
    return (
        f"holds several sets of weights that differ: {_places(found)}. Say which with --weights, "
        f"such as --weights {usable.place}."
    )


def _pickled_text(found: Found, path: object) -> str:
    keys = "".join(f"['{key}']" for key in found.place.split(".") if key)
    loaded = f"t.load('{path}', map_location='cpu', weights_only=False)"
    inside = f" under {found.place}" if found.place else ""
    what = f" ({found.value.stands_for})" if isinstance(found.value, Placeholder) else ""
    return (
        f"holds the weights inside a Python object{inside}{what}, which cannot be read without "
        "running its code. Where its class can be imported, and if you trust whoever made the "
        "file, save the state dict alone and import that: "
        + resave_command(f"{loaded}{keys}.state_dict()")
    )


def _names(found: list[Found]) -> str:
    return ", ".join(each.place or "the top" for each in found)


def _places(found: list[Found]) -> str:
    return ", ".join(
        f"{each.place or 'the top'} "
        + ("(a Python object)" if each.pickled else f"({len(each.value)} entries)")
        for each in found
    )
