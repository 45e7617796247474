"""The library that makes file operations fail: built, loaded before all others, and armed."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

Kind = Literal["count", "EIO", "ENOSPC", "short", "kill"]
KINDS: Final[tuple[Kind, ...]] = ("count", "EIO", "ENOSPC", "short", "kill")
SOURCE: Final = Path(__file__).with_name("shim.c")
PRELOAD: Final = "LD_PRELOAD"


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("cc") if sys.platform == "linux" else None


def build(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "shim.so"
    program = compiler()
    assert program is not None, "the campaign needs Linux and a C compiler, `cc`"
    subprocess.run(
        [program, "-shared", "-fPIC", "-O1", "-o", os.fspath(library), os.fspath(SOURCE), "-ldl"],
        check=True,
    )
    return library


def arm(folder: Path, k: int, kind: Kind, *, stays: bool = False) -> None:
    """Let the k-th operation below a folder fail; `stays`: and all later ones on its file."""
    _library().fault_arm(os.fsencode(folder), ctypes.c_long(k), KINDS.index(kind), int(stays))


def count() -> int:
    """Operations since it was armed, of those that its kind concerns."""
    _library().fault_count.restype = ctypes.c_long
    return int(_library().fault_count())


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ[PRELOAD])
