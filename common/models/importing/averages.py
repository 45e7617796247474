"""Moving averages of weights that a file holds beside the weights.

| program | weights | average |
|---|---|---|
| timm, DeiT | `state_dict`, `model` | `state_dict_ema`, `model_ema` |
| torchvision's scripts | `model` | `model_ema`, names begin with `module.`, a count `n_averaged` |
| callbacks of Lightning | `state_dict` | somewhere under `callbacks` |
| mmengine | `ema_state_dict`, names begin with `module.`, a count `steps` | `state_dict` |
| mmcv's EMAHook | `ema_layer1_0_conv1_weight` | `layer1.0.conv1.weight`, in the same dict |

The last two put the average in the place of the weights when they save, so that whoever loads the
file gets the average.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor

from reskd.common.models.importing.placeholders import Placeholder

_NAME: Final = re.compile(
    r"(?:.*[._])?(?:ema|swa|averaged|avg|average|shadow)(?:[._].*)?", re.IGNORECASE
)
_TRAINS: Final = re.compile(r".*(?:optim|sched).*", re.IGNORECASE)
_BUFFER: Final = "ema_"
_COUNTS: Final = ("n_averaged", "steps")
_WRAPPED: Final = "module."
_DEEPEST: Final = 4


def averages(content: Mapping[Any, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Place and value of everything called an average that holds more than single numbers."""
    for key, value in content.items():
        inner = f"{place}{key}"
        if isinstance(value, Tensor) or _TRAINS.fullmatch(str(key)):
            continue
        deeper = isinstance(value, Mapping) and inner.count(".") < _DEEPEST
        inside = list(averages(value, f"{inner}.")) if deeper else []
        yield from inside
        if not inside and _NAME.fullmatch(str(key)) and holds_tensors(value, dimensions=1):
            yield inner, value


def is_average(key: object) -> bool:
    """Whether what is kept under this key is called an average."""
    return _NAME.fullmatch(str(key)) is not None


def takes_average_for_weights(content: Mapping[Any, Any]) -> bool:
    """Whether mmengine wrote it, whose `state_dict` is the average."""
    meta = content.get("meta")
    noted = isinstance(meta, Mapping) and "mmengine_version" in meta
    noted = noted or "message_hub" in content
    return noted and isinstance(content.get("ema_state_dict"), Mapping)


def without_count(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state without the count an averaging wrapper keeps beside the network it wraps."""
    rest = {name: value for name, value in state.items() if name not in _COUNTS}
    wrapped = bool(rest) and all(name.startswith(_WRAPPED) for name in rest)
    return rest if wrapped else dict(state)


def split_buffers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What mmcv's EMAHook makes of a state.

    Returns:
        The average under the network's names, and the trained weights under the same names; the
        latter empty where the hook was not at work.
    """
    flat = {name.replace(".", "_"): name for name in state if not name.startswith(_BUFFER)}
    buffers = {name: value for name, value in state.items() if name.startswith(_BUFFER)}
    if not buffers or not {name.removeprefix(_BUFFER) for name in buffers} <= flat.keys():
        return dict(state), {}
    own = {name: state[name] for name in flat.values()}
    trained = {flat[name.removeprefix(_BUFFER)]: value for name, value in buffers.items()}
    return own, own | trained


def holds_tensors(value: Any, *, dimensions: int = 0) -> bool:
    """Whether there is a tensor of so many dimensions somewhere; a file may lead in circles."""
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor) and each.ndim >= dimensions:
            return True
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Placeholder):
            waiting.extend(each.parts)
        elif isinstance(each, Mapping):
            waiting.extend(each.values())
        elif isinstance(each, list | tuple | set):
            waiting.extend(each)
    return False
