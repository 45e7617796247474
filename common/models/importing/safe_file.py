"""Named tensors out of a foreign file, without running anything that lies in it.

A .pth file is a pickle, and a pickle may name any function to be called while it is read. torch's
restricted reader (weights_only=True) calls tensors' own builders alone; what it knows beyond them
is listed here: numpy's scalars and number types, which mmcv leaves among a file's notes (best score
so far). They hold numbers and call nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from reskd.common.errors import DataError

SAFETENSORS_SUFFIX = ".safetensors"
_WRAPPERS = ("state_dict", "model")  # mmcv, timm and ours alike; Swin's own releases
_NUMBER_TYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)
_SHOWN = 8


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the weights of a .pth or .safetensors file.

    Args:
        path: A dict of tensors, or a dict that holds one as `state_dict` or `model`.

    Returns:
        Tensors on the CPU by the file's own names, without the `module.` of a parallel wrapper.

    Raises:
        DataError: If the file cannot be read, asks for more than tensors and plain values, or
            holds no named tensors.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    content = _read_safetensors(path) if path.suffix == SAFETENSORS_SUFFIX else _read_pickle(path)
    tensors = _named_tensors(path, content)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def _read_pickle(path: Path) -> Any:
    with torch.serialization.safe_globals(_harmless()):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - damage surfaces as whatever the reader trips over
            asked = _unknown_globals(path, str(error))
            reason = " ".join(str(error).split())
    if asked:
        raise DataError(
            f"{path} was not loaded: it asks for {', '.join(asked)}, and calling what a file names "
            "could run any program. Weights need nothing of the kind. If you trust whoever made "
            "it, load it once where it was made and save its `state_dict` alone to a new file."
        )
    raise DataError(
        f"{path} cannot be read as a torch checkpoint ({reason[:300]}). It may be cut off, or be "
        "no checkpoint; fetch it again."
    )


def _harmless() -> list[Any]:
    """What the restricted reader may meet besides tensors, OrderedDict and plain values."""
    scalar = np.float64(0).__reduce__()[0]  # the one function that rebuilds every numpy scalar
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2, and since
    number_types = {type(np.dtype(name)) for name in _NUMBER_TYPES}
    return [*((scalar, f"{module}.scalar") for module in modules), np.dtype, *number_types]


def _unknown_globals(path: Path, message: str) -> list[str]:
    """Functions and classes the file asks for; reads the names, calls nothing."""
    named = re.findall(r"GLOBAL ([A-Za-z_]\w*(?:\.\w+)*)", message)
    try:
        listed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - files of old torch are not understood by that function
        listed = []
    return sorted({*named, *listed})


def _named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise DataError(
            f"{path} holds {type(content).__name__}, not a dict of named tensors. Save "
            "model.state_dict() instead of the model."
        )
    state = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    state = content if state is None else state
    odd = [str(name) for name, value in state.items() if not _is_plain_tensor(value)]
    if odd or not state:
        keys = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
        raise DataError(
            f"{path} has no state dict: {', '.join(odd[:_SHOWN]) or 'its list'} "
            f"{'are' if len(odd) > 1 else 'is'} no tensor or empty. At its top are: {keys}. "
            "Expected are named tensors, at the top or under `state_dict` or `model`."
        )
    return {str(name): tensor.detach() for name, tensor in state.items()}


def _is_plain_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
