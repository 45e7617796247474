"""What training programs put in front of a network's names, taken off again.

    module.conv1.weight                  data parallel
    _orig_mod.conv1.weight               torch.compile, at any place in a name
    model.conv1.weight                   a Lightning module
    backbone.fc.weight                   a wrapper around a whole network, classifier included
    module.base_model.conv1.weight       the repositories of TSN and TSM; see `parts`

in any order and number. A prefix is taken off only where every name has it, apart from losses and
measures that a training module keeps beside its network: these are left out, and told.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.models.importing.parts import PLAIN_HEADS

_MARKS: Final = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_PREFIXES: Final = ("module.", "model.", "net.", "network.", "base_model.", "timm_model.")
_BACKBONE: Final = "backbone."
_KNOWN: Final = (*_PREFIXES, _BACKBONE)
_LEADING: Final = re.compile(f"(?:{'|'.join(map(re.escape, _KNOWN))})*")
_BESIDE: Final = re.compile(
    r"(?:\w+_)?(?:loss|losses|criterion|metrics?|acc|accuracy|top|f1|auroc|auc|confmat"
    r"|confusion_matrix)\d*(?:_\w+)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stripped:
    """Tensors by the names the network itself gives them."""

    tensors: Mapping[str, Tensor]
    left: tuple[str, ...]
    """Names of the file that are not the network's."""


def strip_prefixes(tensors: Mapping[str, Tensor], prefix: str | None) -> Stripped:
    """Take off what stands before the names.

    Args:
        tensors: By the file's names.
        prefix: Only what begins with it is the network; None: everything is.

    Raises:
        DataError: If nothing begins with the prefix, or two tensors get one name.
    """
    named = _without_marks(tensors)
    left: list[str] = []
    if prefix is not None:
        named, left = _under(named, _MARKS.sub("", prefix))
    beside = dict.fromkeys(_beside(named))
    left += beside
    named = {name: value for name, value in named.items() if name not in beside}
    while prefixes := _common(named):
        named = {name.removeprefix(prefixes[0]): value for name, value in named.items()}
    return Stripped(tensors=named, left=tuple(left))


def leading_parts(names: Iterable[str]) -> tuple[str, ...]:
    """What names begin with, up to each of their dots; longest last, most names first."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts) - 1):
            start = ".".join(parts[:depth]) + "."
            counts[start] = counts.get(start, 0) + 1
    return tuple(sorted(counts, key=lambda start: (start.count("."), -counts[start])))


def _without_marks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, value in tensors.items():
        bare = _MARKS.sub("", name)
        if bare in named and not torch.equal(named[bare], value):
            raise DataError(f"holds two tensors for one name: {origin[bare]} and {name} differ.")
        named[bare], origin[bare] = value, name
    return named


def _under(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    if any(name.startswith(f"{prefix}.") for name in tensors):  # `model` is not `model_ema` too
        prefix += "."
    inside = {name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    if not all(inside.values()) or not inside:
        starts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in tensors))
        raise DataError(
            f"has no name that begins with --prefix {prefix}. Its names begin with {starts[:300]}."
        )
    left = [name for name in tensors if name not in inside]
    return {bare: tensors[name] for name, bare in inside.items()}, left


def _beside(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of losses and measures beside a network that has a prefix of its own."""
    beside = [name for name in tensors if _BESIDE.fullmatch(name.partition(".")[0])]
    rest = set(tensors) - set(beside)
    return beside if rest and any(_all_begin(rest, each) for each in _KNOWN) else []


def _common(tensors: Mapping[str, Tensor]) -> list[str]:
    """Prefixes that every name has and a network's own names do not need."""
    prefixes = [prefix for prefix in _PREFIXES if _all_begin(tensors, prefix)]
    if prefixes or not _all_begin(tensors, _BACKBONE):
        return prefixes
    # mmaction keeps the classifier outside; where it is inside, the whole network is wrapped.
    bare = (_LEADING.sub("", name, count=1) for name in tensors)
    return [_BACKBONE] if any(name.startswith(PLAIN_HEADS) for name in bare) else []


def _all_begin(names: Iterable[str], prefix: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)
