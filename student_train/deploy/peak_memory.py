"""How much memory a stretch of work takes at its highest, on a GPU or in the process."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

_STATUS: Final = Path("/proc/self/status")
_RESET_PEAK: Final = b"5"
"""What Linux takes in /proc/self/clear_refs for forgetting the peak so far."""


@dataclass(slots=True)
class PeakMemory:
    """Filled in when the block ends."""

    num_bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure a block.

    Yields:
        On CUDA the most that torch had allocated at once, weights included. On the CPU what the
        process's resident set grew by at its peak, weights that are there before not included;
        where the system cannot forget an older peak (macOS), only what exceeds that.
    """
    peak = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.num_bytes = torch.cuda.max_memory_allocated(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(_RESET_PEAK)
    before = _resident()
    yield peak
    peak.num_bytes = max(0, _highest() - before)


def _resident() -> int:
    """Bytes in memory now; where the system does not say, the most there have been."""
    return _from_status("VmRSS:") or _highest()


def _highest() -> int:
    """The most bytes in memory since the start, or since the peak was forgotten."""
    if peak := _from_status("VmHWM:"):
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _from_status(field: str) -> int:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def device_name(device: torch.device) -> str:
    """What the machine calls its GPU or CPU, with the number of threads that torch uses there."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = os.uname().machine
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()}"
