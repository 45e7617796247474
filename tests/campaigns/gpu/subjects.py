"""Networks, clips and experiments that several rows need, made once per process."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from reskd.common.dataset.index import VideoIndex, read_index
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.experiment import Experiment
from reskd.common.models.checkpoint import load_checkpoint
from reskd.student_train.train.stage_two import StepClock
from reskd.teacher_cache.format.plan import CachePlan, plan_cache
from tests.campaigns.gpu.recipes import Network, Precision, Scale, experiment_of
from tests.campaigns.gpu.rows import Bench, Figures

MEMORY_BYTES = 2_000_000_000
"""For units, as `cache-teacher` takes."""


def threads() -> int:
    """Threads that decode."""
    return os.cpu_count() or 1


@cache
def _made(network: Network, scale: Scale, folder: Path) -> Experiment:
    return experiment_of(network, scale, folder / f"{network}-{os.getpid()}")


def recipe(bench: Bench, network: Network, precision: Precision = "float32") -> Experiment:
    """The recipe of a teacher on made-up frames."""
    made = _made(network, bench.scale, bench.folder)
    return replace(made, teacher=replace(made.teacher, precision=precision))


def planned(experiment: Experiment) -> tuple[Experiment, VideoIndex, CachePlan]:
    """What measurements of stage one take."""
    index = read_index(experiment.data.index)
    return experiment, index, plan_cache(experiment, index, memory_bytes=MEMORY_BYTES)


def teacher_of(bench: Bench, network: Network, precision: Precision) -> Teacher:
    """The teacher on the device, with the outputs that its recipe stores."""
    experiment = recipe(bench, network, precision)
    model, _ = load_checkpoint(experiment.teacher.checkpoint)
    return Teacher(
        model,
        bench.device,
        precision=precision,
        logit_map=experiment.targets.logit_map is not None,
    )


@cache
def _clips(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((shape[0] * shape[1], 3, 9, 9), generator=generator)
    soft = torch.nn.functional.interpolate(coarse, size=shape[-2:], mode="bicubic")
    return (255 * soft).clamp(0, 255).byte().view(shape)


def clips_of(bench: Bench, network: Network, count: int, *, seed: int = 0) -> Tensor:
    """Soft random clips at the teacher's size, uint8 on the device."""
    experiment = recipe(bench, network)
    size = experiment.views.size
    shape = (count, experiment.clip.num_frames, 3, size, size)
    return _clips(shape, seed).to(bench.device)


@cache
def _exact(network: Network, bench_key: tuple[Scale, Path, str], count: int) -> TeacherOutput:
    scale, folder, device = bench_key
    bench = Bench(device=torch.device(device), scale=scale, folder=folder)
    return outputs(teacher_of(bench, network, "float32"), clips_of(bench, network, count), scale)


def exact_outputs(bench: Bench, network: Network, count: int) -> TeacherOutput:
    """What the teacher says in float32, on the CPU."""
    return _exact(network, (bench.scale, bench.folder, str(bench.device)), count)


def outputs(teacher: Teacher, clips_BT3HW: Tensor, scale: Scale) -> TeacherOutput:
    """Of many clips, on the CPU."""
    parts = [teacher.predict(clips) for clips in clips_BT3HW.split(scale.batch)]
    return TeacherOutput(
        torch.cat([part.features_BTChw.cpu() for part in parts]),
        torch.cat([part.logits_BK.cpu() for part in parts]),
    )


def rate(bench: Bench, work: Callable[[], object], clips: int) -> Figures:
    """Clips per second of some work on the device, and the memory it takes there."""
    if bench.on_card:
        torch.cuda.reset_peak_memory_stats(bench.device)
    seconds = StepClock(bench.device, bench.scale.seconds).seconds(work)
    figures: Figures = {"clips_per_second": clips / seconds, "batch": clips}
    if bench.on_card:
        figures["peak_gb"] = torch.cuda.max_memory_allocated(bench.device) / 1e9
    return figures
