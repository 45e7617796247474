"""The machines that will fill a cache, and what falls to the busiest of them: arithmetic."""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """All of one kind, that of the machine that was measured; a worker on each of their devices."""

    nodes: int = 1
    """Machines, each with a slice of the units."""
    devices: int = 1
    """Of each machine."""
    threads: int = 1
    """Of each machine, that decode, divided among its workers. As many were measured."""
    teacher_threads: int | None = None
    """Of each machine, that run the teacher, divided likewise; None where devices do that."""
    cores: int = 1
    """Of each machine."""
    network_bytes_per_second: float | None = None
    """Of each machine, all at it, to where videos and cache lie; None: not to be counted."""

    @property
    def workers(self) -> int:
        """On all machines."""
        return self.nodes * self.devices

    @property
    def decode_slowdown(self) -> float:
        """How many times longer a worker decodes than was measured: it has some of the threads."""
        return self.threads / _part(self.threads, self.devices)

    @property
    def teacher_slowdown(self) -> float:
        """How many times longer a worker's teacher takes than was measured."""
        if self.teacher_threads is None:
            return 1.0
        return self.teacher_threads / _part(self.teacher_threads, self.devices)

    def share_of_machine(self, units: int) -> float:
        """Share of the units that the busiest machine fills: they are not cut."""
        return ceil(units / self.nodes) / units if units else 0.0

    def share_of_worker(self, units: int) -> float:
        """Share of the units that the busiest worker fills."""
        return ceil(ceil(units / self.nodes) / self.devices) / units if units else 0.0


def _part(threads: int, workers: int) -> int:
    """As `RunOptions.share_of` divides them: none has less than one."""
    return max(1, threads // workers)
