"""Rows of stage one: the teacher alone, and caching it."""

import os
import platform
from importlib.metadata import version
from shutil import disk_usage

import torch

from reskd.teacher_cache.estimate.stage_one import measure_stage_one
from tests.campaigns.gpu.recipes import Network, Precision, Variant
from tests.campaigns.gpu.rows import Bench, Figures
from tests.campaigns.gpu.stored import stored_frames
from tests.campaigns.gpu.subjects import (
    clips_of,
    exact_outputs,
    outputs,
    planned,
    rate,
    recipe,
    teacher_of,
    threads,
)

COPY_BYTES = 256_000_000
PACKAGES = ("torch", "torchvision", "timm", "numpy", "zarr", "h5py")


def facts(bench: Bench) -> Figures:
    """The machine, and how fast it copies."""
    found: Figures = {
        "device": str(bench.device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "folder": str(bench.folder),
        "folder_free_gb": disk_usage(bench.folder).free / 1e9,
        "versions": {name: version(name) for name in PACKAGES},
    }
    if bench.on_card:
        properties = torch.cuda.get_device_properties(bench.device)
        found |= {
            "name": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=bench.on_card)
    there = host.to(bench.device, copy=True)
    for name, target, source in (("to_device", there, host), ("to_host", host, there)):
        copied = rate(bench, lambda: target.copy_(source, non_blocking=True), COPY_BYTES)  # noqa: B023
        found[f"{name}_gb_per_second"] = copied["clips_per_second"] / 1e9
    return found


def forward(network: Network, precision: Precision, bench: Bench) -> Figures:
    """The teacher alone, on clips that lie on the device, and how far it is from float32."""
    teacher = teacher_of(bench, network, precision)
    clips = clips_of(bench, network, bench.scale.batch)
    figures = rate(bench, lambda: teacher.predict(clips), len(clips))
    count = bench.scale.compared_clips
    exact = exact_outputs(bench, network, count)
    found = outputs(teacher, clips_of(bench, network, count), bench.scale)
    for name in ("features_BTChw", "logits_BK"):
        left, right = (getattr(one, name).double() for one in (found, exact))
        difference = (left - right).norm() / right.norm()
        figures[f"difference_{name.partition('_')[0]}"] = difference.item()
    return figures


def caching(network: Network, precision: Precision, variant: Variant, bench: Bench) -> Figures:
    """`reskd benchmark stage-one`: parts, the whole, and their ratios.

    Frames are made up in memory, so that decoding costs no more than a copy, unless the variant
    says that they come from JPEG images in HDF5.
    """
    experiment = recipe(bench, network, precision)
    if variant == " from JPEG":
        experiment = stored_frames(experiment, threads=threads())
    speed = measure_stage_one(
        *planned(experiment),
        parent=bench.folder,
        device=bench.device,
        threads=threads(),
        seconds=4 * bench.scale.seconds,
        preprocess="device" if variant == " cut on the device" else "cpu",
    ).as_dict()
    alone = bench.figures.get(f"forward {network} {precision}")
    if alone is not None:
        speed["forward_ratio"] = speed["clips_per_second"] / alone["clips_per_second"]
    return speed
