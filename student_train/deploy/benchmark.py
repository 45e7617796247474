"""`reskd benchmark`: what a network costs on paper and on this machine, with and without decoding.

The forward pass is timed from clips that lie on the device, normalised, to class scores, one pass
after the other, each until the device has finished. float32 is float32, as in evaluation.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from reskd.common.console import in_lines, progress, say
from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.dataset.open import open_entry
from reskd.common.devices import choose_device
from reskd.common.errors import DataError
from reskd.common.experiment import DataSpec
from reskd.common.models.checkpoint import CheckpointInfo, load_checkpoint
from reskd.common.models.checkpoint_record import CONFIG_FILE
from reskd.common.models.named_models import named_model
from reskd.common.models.recognizer import Recognizer
from reskd.common.models.registry import build_model
from reskd.common.rng import derived_seed
from reskd.common.video.reader import UnreadableVideoError
from reskd.student_train.deploy.peak_memory import device_name, peak_memory
from reskd.student_train.evaluate.clip_reader import Reading, reading_of
from reskd.student_train.evaluate.inference import forward

Precision = Literal["float32", "bfloat16", "float16"]
WARM_UP_PASSES: Final = 5
NAMED_CLASSES: Final = 400
"""Classes of a network that is named and not trained: those of Kinetics-400."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkOptions:
    """What the network is given, and where."""

    size: int | None = None
    """Side of its frames in pixels; None: its own."""
    num_frames: int | None = None
    """T; None: its own."""
    batch_size: int = 1
    """Clips per forward pass."""
    precision: Precision = "float32"
    """Number type of its layers (autocast)."""
    passes: int = 30
    """Timed forward passes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """The network that is measured."""

    model: Recognizer
    info: CheckpointInfo
    reading: Reading
    data: DataSpec | None
    """From the experiment it was trained by."""


def benchmark(
    source: str,
    options: BenchmarkOptions,
    *,
    index_path: Path | None = None,
    max_videos: int = 64,
) -> dict[str, Any]:
    """Measure a network.

    Args:
        source: Checkpoint directory, or a model's name; then its weights are random.
        options: What it is given.
        index_path: Also read clips of its videos, in one thread, as evaluation does (one view).
        max_videos: Of them, the first ones.

    Returns:
        For JSON. Latencies in seconds per forward pass (`latency_p50`, `latency_p95`) with
        `clips_per_second` at the median; `weights_bytes`; `peak_memory_bytes` of the passes
        (peak_memory.py says of what). With an index `decode`: seconds per clip, clips per second
        when every batch is read and then run, and what could not be read.

    Raises:
        DataError: If the checkpoint or the index is missing or wrong, or no video can be read.
        ExperimentError: If there is no such model, or it takes no such clips.
    """
    device = choose_device(options.device)
    index = None if index_path is None else read_index(index_path)
    subject = _subject(source, options)
    reading, info = subject.reading, subject.info
    cost = reading.cost(info.model, num_classes=len(info.classes))
    network = _Network(subject.model.to(device).eval(), device, options.precision)
    shape = (options.batch_size, reading.clip.num_frames, 3, reading.size, reading.size)
    seconds, peak_bytes = _time_passes(network, torch.zeros(shape, device=device), options.passes)
    median = float(np.percentile(seconds, 50))
    result = {
        "source": source,
        "recognizer": info.model.recognizer,
        "backbone": info.model.backbone,
        "device": device_name(device),
        "device_type": device.type,
        "torch": torch.__version__,
        "precision": options.precision,
        "batch": options.batch_size,
        "frames": reading.clip.num_frames,
        "size": reading.size,
        "classes": len(info.classes),
        "parameters": cost.parameters,
        "gmacs": cost.gmacs,
        "passes": options.passes,
        "warm_up_passes": WARM_UP_PASSES,
        "latency_p50": median,
        "latency_p95": float(np.percentile(seconds, 95)),
        "clips_per_second": options.batch_size / median,
        "weights_bytes": _bytes_of(subject.model),
        "peak_memory_bytes": peak_bytes,
        "peak_memory_of": "allocated by torch, weights included"
        if device.type == "cuda"
        else "growth of the process while it runs, weights not included",
    }
    if index is not None and index_path is not None:
        result["decode"] = _time_decoding(
            subject,
            network,
            index,
            subject.data or DataSpec(index=index_path),
            batch_size=options.batch_size,
            max_videos=max_videos,
        )
    return result


def _subject(source: str, options: BenchmarkOptions) -> _Subject:
    """The network of a checkpoint directory, else the one of that name."""
    folder = Path(source)
    if folder.is_dir() or os.sep in source:
        model, info = load_checkpoint(folder)
        experiment = info.parsed_experiment(source=str(folder / CONFIG_FILE))
        size, num_frames = options.size, options.num_frames
    else:
        named, experiment = named_model(source), None
        size, num_frames = options.size or named.size, options.num_frames or named.num_frames
        torch.manual_seed(derived_seed(0, "benchmark"))
        model = build_model(named.spec, num_classes=NAMED_CLASSES)
        info = CheckpointInfo(
            role="teacher",  # frames are cut at its own size
            model=named.spec,
            size=size,
            weights_sha256="",
            classes=tuple(map(str, range(NAMED_CLASSES))),
            experiment={},
        )
    return _Subject(
        model=model,
        info=info,
        reading=reading_of(info, experiment, size=size, num_frames=num_frames),
        data=None if experiment is None else experiment.data,
    )


@dataclass(frozen=True, slots=True)
class _Network:
    """A forward pass that is over when it returns."""

    model: Recognizer
    device: torch.device
    precision: Precision

    def __call__(self, clips_BT3HW: Tensor) -> None:
        narrow: AbstractContextManager[Any] = nullcontext()
        if self.precision != "float32":
            narrow = torch.autocast(self.device.type, getattr(torch, self.precision))
        with narrow:
            forward(self.model, clips_BT3HW)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _time_passes(network: _Network, clips: Tensor, passes: int) -> tuple[list[float], int]:
    """Seconds of every pass after the warm-up, and the peak of memory of all of them."""
    seconds = []
    with (
        peak_memory(network.device) as peak,
        progress("timing", WARM_UP_PASSES + passes, unit="passes") as advance,
    ):
        for number in range(WARM_UP_PASSES + passes):
            taken = _seconds(lambda: network(clips))
            if number >= WARM_UP_PASSES:
                seconds.append(taken)
            advance()
    return seconds, peak.num_bytes


def _time_decoding(
    subject: _Subject,
    network: _Network,
    index: VideoIndex,
    data: DataSpec,
    *,
    batch_size: int,
    max_videos: int,
) -> dict[str, Any]:
    """Read every clip and run every full batch, one after the other."""
    entries = index.videos[:max_videos]
    seconds: list[float] = []
    failures: dict[str, str] = {}
    waiting: list[Tensor] = []
    running = 0.0
    with progress("decoding", len(entries), unit="videos") as advance:
        for entry in entries:
            start = time.perf_counter()
            try:
                with open_entry(index, entry, data) as video:
                    waiting.append(subject.reading.clips(video)[0])
                seconds.append(time.perf_counter() - start)
            except UnreadableVideoError as error:
                failures[entry.id] = error.reason
                say(f"unreadable, left out: {entry.id}: {error.reason}")
            if len(waiting) == batch_size:
                running += _batch_seconds(network, waiting)
            advance()
    if waiting:
        running += _batch_seconds(network, waiting)
    if not seconds:
        raise DataError(
            f"none of the {len(failures)} videos can be read; the first: "
            + "; ".join(f"{name}: {why}" for name, why in list(failures.items())[:3])
        )
    return {
        "clips": len(seconds),
        "failed": len(failures),
        "failures": failures,
        "decoder": data.decoder,
        "seconds_per_clip_p50": float(np.percentile(seconds, 50)),
        "seconds_per_clip_p95": float(np.percentile(seconds, 95)),
        "clips_per_second": len(seconds) / sum(seconds),
        "clips_per_second_with_network": len(seconds) / (sum(seconds) + running),
    }


def _batch_seconds(network: _Network, waiting: list[Tensor]) -> float:
    """Time from uint8 clips to class scores; the clips are taken off the list."""
    frames = torch.stack(waiting)
    waiting.clear()
    return _seconds(lambda: network(frames))


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _bytes_of(model: nn.Module) -> int:
    return sum(value.nbytes for value in chain(model.parameters(), model.buffers()))


def benchmark_text(result: Mapping[str, Any]) -> str:
    """The result for a person."""
    rows = {
        "device": f"{result['device']}, {result['precision']}, batch {result['batch']}",
        "cost": f"{result['gmacs']:.3f} GMACs per clip, {result['parameters']:,} parameters",
        "latency": f"{_milliseconds(result, 'latency')} per pass, {result['passes']} passes",
        "throughput": f"{result['clips_per_second']:.2f} clips/s",
        "memory": f"{_megabytes(result['peak_memory_bytes'])} {result['peak_memory_of']}",
        "weights": _megabytes(result["weights_bytes"]),
    }
    if (decode := result.get("decode")) is not None:
        rows["decoding"] = (
            f"{_milliseconds(decode, 'seconds_per_clip')} per clip, "
            f"{decode['clips_per_second']:.2f} clips/s in one thread"
        )
        rows["both"] = (
            f"{decode['clips_per_second_with_network']:.2f} clips/s, one after the other; "
            f"{decode['clips']} clips, {decode['failed']} videos unreadable"
        )
    about = f"{result['recognizer']} of {result['backbone']}"
    title = f"{result['source']}: {about}, {result['frames']} frames of {result['size']} px"
    return in_lines(title, *(f"  {name:<12}{text}" for name, text in rows.items()))


def _milliseconds(figures: Mapping[str, Any], name: str) -> str:
    median, high = (1e3 * figures[f"{name}_{share}"] for share in ("p50", "p95"))
    return f"{median:.2f} ms (median), {high:.2f} ms (p95)"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
