"""What a file is by its first bytes, where it is no checkpoint that can be read.

People bring pages a server sent instead of the file, pointers git-lfs left, archives around the
file, and networks saved as programs; each has a remedy of its own.
"""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from reskd.common.errors import DataError

_HEAD: Final = 512
_SHOWN: Final = 8
_UNPACKED: Final = 50
"""Times its own size that a zip archive may hold; torch does not compress."""
_AGAIN: Final = "Fetch it again"


def check_kind(path: Path) -> None:
    """Refuse what holds no weights that can be read without running it.

    Raises:
        DataError: If there is no such file or it is a folder, empty, a web page, a pointer of
            git-lfs, an archive of other files, or a network saved with its program.
    """
    if path.is_dir():
        raise DataError(_folder(path))
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if problem := _problem(path, head):
        raise DataError(f"{path} {problem}")


def is_safetensors(path: Path) -> bool:
    """Whether it begins as a safetensors file does: a length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 10**8


def _folder(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if {"model.safetensors", "config.json", "labels.json"} <= set(names):
        return f"{path} is a checkpoint directory of this program already; use it as it is."
    weights = [name for name in names if name.endswith((".pth", ".pt", ".bin", ".safetensors"))]
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        return (
            f"{path} is a checkpoint in pieces, as torch.distributed writes it. Join them: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} joined.pth"
        )
    held = f"Name the file of its weights: {', '.join(weights[:_SHOWN])}." if weights else ""
    holds = ", ".join(names[:_SHOWN]) or "nothing"
    return f"{path} is a folder, not a file. " + (held or f"It holds {holds}; no file of weights.")


def _problem(path: Path, head: bytes) -> str | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"is empty. {_AGAIN}."
    if text.startswith(b"version https://git-lfs"):
        return (
            "is a pointer that git-lfs left in place of the file. Run `git lfs pull` in its "
            "repository, or download the file itself."
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return (
            "is a web page, not a checkpoint: the server sent a page (a login, an error, a warning "
            f"before a large download) in its place. {_AGAIN}, from the link of the file itself."
        )
    if text.startswith(b"{") and b":" in text:
        return (
            "is JSON, not a checkpoint. An index of a checkpoint in pieces names the files of its "
            "weights; join them into one."
        )
    for mark, what in _OTHERS.items():
        if head.startswith(mark):
            return f"is {what}"
    return _archive_problem(path, head)


_OTHERS: Final = {
    b"\x89HDF": "an HDF5 file, such as Keras writes. Convert its weights to PyTorch first.",
    b"\x1f\x8b": "packed with gzip. Unpack it first.",
    b"\xfd7zXZ": "packed with xz. Unpack it first.",
    b"7z\xbc\xaf": "a 7z archive. Unpack it and name the file of the weights.",
    b"\x93NUMPY": "a file of numpy. Save its tensors with torch.save, by their names.",
}


def _archive_problem(path: Path, head: bytes) -> str | None:
    if head.startswith(b"PK"):
        return _zip_problem(path)
    return _tar_problem(path) if tarfile.is_tarfile(path) else None


def _zip_problem(path: Path) -> str | None:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        return f"cannot be read as a torch checkpoint: it is cut off after {size} bytes. {_AGAIN}."
    names = [entry.filename for entry in entries]
    if sum(entry.file_size for entry in entries) > _UNPACKED * size:
        return "was not loaded: unpacked it would be many times its own size. Weights are not."
    kinds: tuple[tuple[Callable[[str], bool], str], ...] = (
        (
            lambda name: name.endswith("/constants.pkl"),
            "is a TorchScript program with its weights inside. Where you trust it, take them out: "
            + resave_command("t.jit.load('{file}').state_dict()"),
        ),
        (
            lambda name: name.endswith(("archive_format", "serialized_exported_program.json")),
            "is an exported program with its weights inside. Where you trust it, take them out: "
            + resave_command("t.export.load('{file}').state_dict"),
        ),
    )
    for tells, problem in kinds:
        if any(map(tells, names)):
            return problem.replace("{file}", str(path))
    if not any(name.endswith("data.pkl") for name in names):
        shown = ", ".join(names[:_SHOWN]) or "nothing"
        return f"is a zip archive, not a checkpoint; it holds {shown}. Unpack it and name the file."
    return None


def _tar_problem(path: Path) -> str:
    with tarfile.open(path) as archive:
        names = archive.getnames()
    if {"pickle", "storages"} <= set(names):
        return (
            "is of the tar format of torch before 0.4, which cannot be read without running what "
            "is in it. Where you trust it, save it anew: "
            + resave_command(f"t.load('{path}', weights_only=False)")
        )
    shown = ", ".join(names[:_SHOWN]) or "nothing"
    return f"is a tar archive; it holds {shown}. Unpack it and name the file of the weights."


def resave_command(state: str) -> str:
    """The command that saves what a Python expression gives as a file this program reads."""
    return f"python -c \"import torch as t; t.save({state}, 'weights.pth')\""
