"""The machine: cores and threads, GPUs, memory between processes, files, the disk."""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from reskd.common.doctor.symptom import Symptom
from reskd.common.prefetch import num_cores
from reskd.common.worker_processes import SHARED_MEMORY

LEAST_SHARED: Final = 2_000_000_000
"""As much as cache-teacher decodes ahead."""
LEAST_FILES: Final = 4096
LEAST_FREE: Final = 10_000_000_000
WRITTEN: Final = 256_000_000
"""To the disk, to see how fast it is."""
SLOW: Final = 50_000_000
"""Bytes a second below which a disk holds up a teacher on a GPU."""


def machine(folder: Path) -> Iterator[Symptom]:
    """Everything but packages and decoders; `folder` is where caches will lie."""
    yield _threads()
    yield from _gpus()
    yield _shared_memory()
    yield _open_files()
    yield _space(folder)
    yield _speed(folder)


def _threads() -> Symptom:
    import torch

    threads, cores = torch.get_num_threads(), num_cores()
    found = f"{cores} cores for this process, {threads} threads of torch"
    if threads > cores:
        return Symptom("threads", found, f"export OMP_NUM_THREADS={cores}")
    return Symptom("threads", found)


def _gpus() -> Iterator[Symptom]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Symptom(
                f"cuda:{number}", f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
            )
        return
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        built = torch.version.cuda
        fix = (
            "the driver is older than this CUDA: update it, or install a torch for an older CUDA"
            if built
            else "this torch was built without CUDA: install one built for it"
        )
        yield Symptom("GPU", f"there is one that torch (CUDA {built}) cannot use", fix)
    else:
        yield Symptom("GPU", "none; the CPU does the work")


def _shared_memory() -> Symptom:
    if not SHARED_MEMORY.is_dir():
        return Symptom("shared memory", "not a folder on this system")
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{free / 1e9:.1f} GB free in {SHARED_MEMORY}"
    if free < LEAST_SHARED:
        fix = (
            "processes that decode hand over frames there. Start the container with --ipc=host or "
            "--shm-size=8g; until then up to 8 threads decode"
        )
        return Symptom("shared memory", found, fix)
    return Symptom("shared memory", found)


def _open_files() -> Symptom:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    unlimited = hard == resource.RLIM_INFINITY
    found = "no limit" if unlimited else f"up to {hard} at once"
    if not unlimited and hard < LEAST_FILES:
        fix = f"raise it to {LEAST_FILES}: `ulimit -Hn`, /etc/security/limits.conf"
        return Symptom("open files", found, fix)
    return Symptom("open files", found)


def _space(folder: Path) -> Symptom:
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free in {folder.resolve()}"
    fix = "free some, or name another folder: `reskd doctor FOLDER`" if free < LEAST_FREE else None
    return Symptom("disk space", found, fix)


def _speed(folder: Path) -> Symptom:
    """Bytes a second written and synced, as a cache's objects are."""
    size = min(WRITTEN, shutil.disk_usage(folder).free // 4)
    piece = os.urandom(1_000_000)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            for _ in range(max(1, size // len(piece))):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            speed = max(1, size // len(piece)) * len(piece) / (time.perf_counter() - start)
    except OSError as error:
        return Symptom(
            "disk speed",
            f"cannot write to {folder}: {error.strerror}",
            "name a folder that can be written to: `reskd doctor FOLDER`",
        )
    found = f"{speed / 1e6:.0f} MB/s written and synced"
    fix = "caches will wait for this disk; name a faster one" if speed < SLOW else None
    return Symptom("disk speed", found, fix)
