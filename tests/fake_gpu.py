"""A GPU that computes shapes, types and devices only: what would wait, or lie elsewhere, is found.

torch's fake tensors take CUDA for a device wherever they are made. Code that runs on them asks for
no numbers, so whatever looks at one raises, and so does what joins tensors of two devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reskd.common.distill import grid_projection
from reskd.common.video import integer_resize

Module = TypeVar("Module", bound=nn.Module)
GPU: Final = torch.device("cuda", 0)
_KEPT: Final = (
    grid_projection.upsampling_matrix,
    grid_projection.triangular_factor,
    grid_projection.pseudo_inverse,
    grid_projection._on,
    integer_resize._taps,
)
"""What is made once and kept: neither fake for others nor real here."""


class Copies(TorchDispatchMode):
    """Notes copies between CPU and GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        given = [value for value in args if isinstance(value, Tensor)]
        if "copy" in func.__name__ and given and isinstance(made, Tensor):
            way = f"{given[-1].device.type} to {made.device.type}"
            if given[-1].device != made.device:
                self.found.append(f"{tuple(made.shape)} {way}")
        return made


@contextmanager
def fake_gpu() -> Iterator[Copies]:
    """Tensors made inside the block have no numbers, on whatever device they say they are."""
    _forget()
    try:
        with FakeTensorMode(), Copies() as copies:
            yield copies
    finally:
        _forget()


def moved(module: Module, half: torch.dtype | None = None) -> Module:
    """A network made outside the block as it would lie there; BatchNorm is in no half type."""
    for layer in module.modules():
        exact = half is None or isinstance(layer, nn.modules.batchnorm._BatchNorm)

        def there(value: Tensor, exact: bool = exact) -> Tensor:
            dtype = value.dtype if exact or not value.is_floating_point() else half
            return torch.empty_strided(value.shape, value.stride(), dtype=dtype, device=GPU)

        for name, weight in layer.named_parameters(recurse=False):
            layer._parameters[name] = nn.Parameter(there(weight), weight.requires_grad)
        for name, buffer in layer.named_buffers(recurse=False):
            layer._buffers[name] = there(buffer)
    return module


def _forget() -> None:
    for made in _KEPT:
        made.cache_clear()
