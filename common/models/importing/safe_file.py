"""What a foreign file holds, without running anything that lies in it.

A .pth file is a pickle, and a pickle may name any function to be called while it is read. torch's
restricted reader (weights_only=True) calls tensors' own builders alone. Every other class and
function a file asks for is replaced by a placeholder that does nothing; a file that asks for one
with which programs are started is refused.
"""

import re
import warnings
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from reskd.common.errors import DataError
from reskd.common.models.importing.file_kinds import check_kind, is_safetensors, resave_command
from reskd.common.models.importing.placeholders import (
    MODULE,
    Kind,
    placeholder_class,
)
from reskd.common.storage.system_errors import input_problem
from reskd.common.video.attempts import read_whole

_RUNNERS: Final = re.compile(
    r"(?:os|posix|nt|sys|subprocess|commands|pty|socket|shutil|importlib|runpy|code|codeop|ctypes|"
    r"webbrowser|pip|pickle|_pickle|marshal)(?:\..+)?"
    r"|(?:builtins|__builtin__)\.(?:eval|exec|execfile|compile|__import__|open|input|breakpoint)"
    r"|torch\.(?:load|hub\..+|utils\.cpp_extension\..+|serialization\.load|jit\..*load)"
)
_ASKED: Final = re.compile(r"GLOBAL ([A-Za-z_]\w*(?:\.\w+)*)")
_WRONG_KIND: Final = re.compile(
    rf"Can only (SETITEMS?|append).* got <class '{MODULE}\.<([^>]+)>'>", re.DOTALL
)
_MOST_CLASSES: Final = 1000
_SHOWN: Final = 8
_LONGEST_REASON: Final = 300
_TORCH_SAYS: Final = "WeightsUnpickler error: "
"""What torch puts before its reason, after its advice to load the file without care."""


def read_content(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Read a .pth or .safetensors file.

    Args:
        path: Whatever its name ends in, it is read as what its first bytes say.

    Returns:
        What the file holds, tensors on the CPU, and the names of all that was replaced by
        placeholders.

    Raises:
        DataError: If it is no checkpoint, is damaged, or asks for something that runs programs.
    """
    try:
        check_kind(path)
        if is_safetensors(path):
            return _read_safetensors(path), ()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {input_problem(error)}.") from error
    content, kinds = _read_pickle(path)
    return content, tuple(sorted(kinds))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        read_whole(path)  # else the system has failed
        raise DataError(
            f"{path} cannot be read as safetensors: {error}. It may be cut off; fetch it again."
        ) from error


def _read_pickle(path: Path) -> tuple[Any, dict[str, Kind]]:
    """Read it again with placeholders until it asks for nothing that is not known."""
    kinds: dict[str, Kind] = dict.fromkeys(_listed_globals(path), "object")
    while True:
        _refuse_runners(path, kinds)
        try:
            return _load(path, kinds), kinds
        except Exception as error:  # noqa: BLE001 - damage surfaces as whatever the reader trips over
            learnt = _learnt(str(error), kinds)
            reason = " ".join(str(error).split())
        if not learnt or len(kinds) > _MOST_CLASSES:
            read_whole(path)  # else the system has failed
            raise DataError(_unreadable(path, reason))
        kinds |= learnt


def _load(path: Path, kinds: dict[str, Kind]) -> Any:
    stand_ins: list[Any] = [(placeholder_class(name, kind), name) for name, kind in kinds.items()]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # said in the error
        with path.open("rb") as file:  # given a path, torch goes by how it ends
            return torch.load(file, map_location="cpu", weights_only=True)


def _listed_globals(path: Path) -> list[str]:
    """Functions and classes the file asks for; reads the names, calls nothing."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - files of old torch are not understood by that function
        return []


def _learnt(message: str, kinds: dict[str, Kind]) -> dict[str, Kind]:
    """What a failed attempt says of a class not known before, or taken for the wrong kind."""
    wrong = _WRONG_KIND.search(message)
    if wrong:
        kind: Kind = "list" if wrong[1] == "append" else "dict"
        return {wrong[2]: kind} if kinds.get(wrong[2]) == "object" else {}
    # torch leaves the module out of what it calls a builtin.
    asked = (name if "." in name else f"builtins.{name}" for name in _ASKED.findall(message))
    return {name: "object" for name in asked if name not in kinds}


def _refuse_runners(path: Path, kinds: dict[str, Kind]) -> None:
    if runners := sorted(name for name in kinds if _RUNNERS.fullmatch(name)):
        raise DataError(
            f"{path} was not loaded: it asks for {', '.join(runners[:_SHOWN])}, with which a file "
            "can run any program. Weights need nothing of the kind. Do not load it elsewhere "
            "either, unless you trust whoever made it."
        )


def _is_pickle(path: Path) -> bool:
    """Whether it is a pickle of a numbered protocol, or a zip archive with one."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"\x80", b"PK"))


def _unreadable(path: Path, reason: str) -> str:
    trusted = "Where you trust whoever made it"
    if "Only persistent_load of storage" in reason:  # the source of a class, in files of old torch
        loaded = f"t.load('{path}', map_location='cpu', weights_only=False)"
        return (
            f"{path} holds a whole network as a Python object, which cannot be read without "
            f"running its code. {trusted}, and its class can be imported, save the state dict "
            f"alone: {resave_command(f'{loaded}.state_dict()')} (after {loaded} name the key it "
            "lies under, if any)."
        )
    reason = reason.rpartition(_TORCH_SAYS)[2][:_LONGEST_REASON]
    if "Unsupported operand" in reason and _is_pickle(path):
        again = resave_command(f"t.load('{path}', map_location='cpu', weights_only=False)")
        return (
            f"{path} is a pickle of a protocol that cannot be read without running it ({reason}). "
            f"{trusted}, save it anew: {again}"
        )
    return (
        f"{path} cannot be read as a torch checkpoint ({reason}). It may be cut off, or be no "
        "checkpoint; fetch it again."
    )
