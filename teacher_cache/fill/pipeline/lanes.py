"""Clips to the device and rows back, beside its work: pinned memory, streams of their own, events.

On the CPU there is nothing to copy and nothing to wait for: the same calls, at once.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor


@dataclass(slots=True)
class Slot:
    """Memory of one batch on its way, kept for the next; pinned where there is a GPU."""

    host: dict[str, Tensor] = field(default_factory=dict)
    """Every array, and `clips` where the device is the host."""


class Arrival:
    """Arrays of a batch that are on the host once `wait` has returned."""

    def __init__(self, arrays: dict[str, Tensor], event: torch.cuda.Event | None = None) -> None:
        self._arrays, self._event = arrays, event

    def wait(self) -> dict[str, Tensor]:
        """The arrays, in memory that belongs to their slot."""
        if self._event is not None:
            self._event.synchronize()
        return self._arrays


class Timer:
    """Seconds that the device worked inside the block; known when what followed has arrived."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._marks: list[torch.cuda.Event] = []
        self._times: list[float] = []

    @property
    def seconds(self) -> float:
        """Between the marks."""
        if self._marks:
            return float(self._marks[0].elapsed_time(self._marks[1])) / 1000
        return self._times[1] - self._times[0]

    def _mark(self) -> None:
        if self._stream is None:
            self._times.append(time.perf_counter())
        else:
            self._marks.append(self._stream.record_event(torch.cuda.Event(enable_timing=True)))

    def __enter__(self) -> Self:
        self._mark()
        return self

    def __exit__(self, *exception: object) -> None:
        self._mark()


class Lanes:
    """The ways to a device and back."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams = (
            (torch.cuda.Stream(device), torch.cuda.Stream(device))
            if device.type == "cuda"
            else None
        )

    def batch(self, slot: Slot, clips: Sequence[Tensor]) -> Tensor:
        """Put clips together.

        Args:
            slot: Of which nothing is on its way any more.
            clips: B tensors of one shape, uint8 on the device.

        Returns:
            (B, T, 3, H, W), for whatever the current stream does next.
        """
        if self._streams is not None:
            return torch.stack(tuple(clips))
        host = self._host(slot, "clips", (len(clips), *clips[0].shape), clips[0].dtype)
        for place, clip in zip(host.numpy(), clips, strict=True):
            place[...] = clip.numpy()  # torch takes twice as long to set the colours apart
        return host

    def send(self, pixels: Tensor) -> Tensor:
        """Begin to copy a tensor to the device, from pinned memory without a wait.

        Returns:
            The tensor there, for whatever the current stream does next.
        """
        if self._streams is None:
            return pixels
        incoming, current = self._streams[0], torch.cuda.current_stream(self.device)
        with torch.cuda.stream(incoming):
            there = pixels.to(self.device, non_blocking=True)
        current.wait_stream(incoming)
        there.record_stream(current)  # its memory is needed until that is done with it
        return there

    def download(self, slot: Slot, arrays: Mapping[str, Tensor]) -> Arrival:
        """Begin to copy to the host what the current stream is going to have made.

        Args:
            slot: Holds what arrives until it is used again.
            arrays: On the device; need not be finished, and may be forgotten at once.
        """
        if self._streams is None:
            return Arrival(dict(arrays))
        outgoing = self._streams[1]
        outgoing.wait_stream(torch.cuda.current_stream(self.device))
        arrived = {}
        with torch.cuda.stream(outgoing):
            for name, array in arrays.items():
                arrived[name] = self._host(slot, name, tuple(array.shape), array.dtype)
                arrived[name].copy_(array, non_blocking=True)
                if array.is_cuda:
                    array.record_stream(outgoing)  # its memory is needed until this copy is done
        # Blocking: who waits sleeps, instead of turning in a loop.
        return Arrival(arrived, outgoing.record_event(torch.cuda.Event(blocking=True)))

    def timer(self) -> Timer:
        """A clock of the device."""
        return Timer(self.device)

    def _host(self, slot: Slot, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        kept = slot.host.get(name)
        if kept is None or (tuple(kept.shape), kept.dtype) != (shape, dtype):
            pinned = self._streams is not None
            kept = slot.host[name] = torch.empty(shape, dtype=dtype, pin_memory=pinned)
        return kept
