"""Weights that stay what they are: no gradient, no decay, no momentum, no new statistics."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reskd.common.errors import ExperimentError


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Leave out of training every parameter whose name begins with one of some prefixes.

    Args:
        model: The network, not the task around it: names are those of its model.safetensors.
        prefixes: Beginnings of names.

    Raises:
        ExperimentError: If a prefix matches nothing, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for prefix in prefixes:
        frozen = [name for name in parameters if name.startswith(prefix)]
        if not frozen:
            raise ExperimentError(_matches_nothing(prefix, list(parameters)))
        for name in frozen:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ExperimentError(
            f"training.freeze {list(prefixes)} leaves no parameter of the network to train. Name "
            "fewer of them."
        )


def frozen_batchnorms(module: nn.Module) -> Iterator[_BatchNorm]:
    """Layers whose own parameters are frozen: their statistics must not move either."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            own = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
            if own and not any(own):
                yield layer


def _matches_nothing(prefix: str, names: Sequence[str]) -> str:
    beginnings = {name[:end] for name in names for end, sign in enumerate(name) if sign == "."}
    near = get_close_matches(prefix, sorted({*beginnings, *names}), n=3, cutoff=0.5)
    near = near or sorted({name.split(".")[0] for name in names})
    return (
        f"training.freeze: no parameter of the network has a name that begins with {prefix!r}. "
        f"Near it are {', '.join(near)}."
    )
