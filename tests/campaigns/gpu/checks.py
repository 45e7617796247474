"""Rows that are right or wrong: equal bytes, caches that hold elsewhere, memory that ends."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from reskd.common.experiment import Experiment
from reskd.common.rng import keyed_generator
from reskd.common.video.clips import UnionFrames, cut_union
from reskd.common.video.integer_resize import resize_in_integers
from reskd.common.video.preprocess import shrink
from reskd.common.video.views import draw_view
from reskd.teacher_cache.estimate.probe import ProbeRun, prepared_probe
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.commits import read_commits
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.verify.recompute import Draw, verify_semantic
from tests.campaigns.gpu.recipes import Network, Precision, experiment_of
from tests.campaigns.gpu.rows import Bench, Figures
from tests.campaigns.gpu.stage_two import waits
from tests.campaigns.gpu.subjects import planned, threads

CPU = torch.device("cpu")
SIZES = ((256, 340), (240, 320), (360, 480), (1080, 1920), (130, 97))
"""Heights and widths of source frames."""


def preprocessing(bench: Bench) -> Figures:
    """Crops and resizes on the device against torch's own on the CPU: not a bit may differ."""
    experiment = experiment_of("R50", bench.scale, bench.folder / "preprocessing", videos=1)
    size, student = experiment.views.size, experiment.required_student().size
    pixels = different = 0
    for height, width in SIZES:
        views = [
            draw_view(
                clip=experiment.clip,
                views=experiment.views,
                video_id=f"{height}x{width}",
                view=view,
                num_frames=40,
                height=height,
                width=width,
            )
            for view in range(4)
        ]
        numbers = sorted({index for view in views for index in view.frame_indices})
        rng = keyed_generator("pixels", height, width)
        noise = rng.integers(0, 256, (len(numbers), height, width, 3), "uint8")
        union = UnionFrames(torch.from_numpy(noise), numbers)
        here = cut_union(union, views, size=size)
        there = cut_union(union.to(bench.device), views, size=size, resize=resize_in_integers)
        for left, right in ((here, there), (shrink(here, student), shrink(there, student))):
            pixels += left.numel()
            different += int((left != right.cpu()).sum())
    if different:
        raise AssertionError(f"{different} of {pixels} numbers differ")
    return {"pixels": pixels, "different": different}


def fill(
    experiment: Experiment, folder: Path, bench: Bench, **options: Any
) -> tuple[Experiment, Path]:
    """Its cache, made on the device."""
    experiment, _, plan = planned(experiment)
    run = RunOptions(max_bad=0.0, threads=threads(), device=bench.device, force=True, **options)
    run_cache_teacher(experiment, plan, folder, run)
    return experiment, folder


def small(
    bench: Bench, network: Network, precision: Precision, videos: int, name: str
) -> Experiment:
    """A recipe on a few videos."""
    return experiment_of(
        network,
        bench.scale,
        bench.folder / name,
        [f"teacher.precision={precision}", "views.count=2"],
        videos=videos,
    )


def verified(network: Network, precision: Precision, bench: Bench) -> Figures:
    """A cache made on the device, verified where there is none: `cache verify --level semantic`."""
    rows = 16 if bench.scale.name == "full" else 4
    with TemporaryDirectory(dir=bench.folder) as folder:
        experiment, cache = fill(
            small(bench, network, precision, 16, f"verified-{network}"),
            Path(folder) / "cache",
            bench,
        )
        report = verify_semantic(
            experiment, cache, Draw(rows=rows, seed=0), device=CPU, threads=threads()
        )
    if report.findings:
        raise AssertionError("; ".join(str(finding) for finding in report.findings[:3]))
    return report.as_dict()["semantic"] or {}


def half_batch(bench: Bench) -> Figures:
    """The device's memory ends: the unit is computed once more with half the batch."""
    # In float32: no other precision is compared with it first, which takes memory of its own.
    experiment = small(bench, "R50", "float32", 32, "memory")
    clips = bench.scale.batch
    peak = {batch: _peak(experiment, bench, batch) for batch in (clips, clips // 2)}
    limit = (peak[clips] + peak[clips // 2]) / 2
    total = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / total, bench.device)
    try:
        batches = _recorded_batches(experiment, bench, clips)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    if not batches or max(batches) > clips // 2:
        raise AssertionError(f"batches of {batches} clips fitted into {limit / 1e9:.2f} GB")
    return {
        "peak_gb": {str(batch): memory / 1e9 for batch, memory in peak.items()},
        "limit_gb": limit / 1e9,
        "batches": batches,
    }


def _peak(experiment: Experiment, bench: Bench, batch: int) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    _recorded_batches(experiment, bench, batch)
    # Not what is reserved: of that the allocator gives back what nobody uses before memory ends.
    return torch.cuda.max_memory_allocated(bench.device)


def _recorded_batches(experiment: Experiment, bench: Bench, batch: int) -> Sequence[int]:
    """Sizes of the batches that the commits of a new cache name."""
    with TemporaryDirectory(dir=bench.folder) as folder:
        _, cache = fill(experiment, Path(folder) / "cache", bench, batch_clips=batch)
        manifest = read_manifest(cache)
        commits = read_commits(cache, 1, range(manifest.layout.num_units))
        return sorted({one.computed.batch_clips for one in commits.values() if one.computed})


def waits_in_stage_one(bench: Bench) -> Figures:
    """How often filling a cache waits for the device with all work behind it stopped."""
    experiment, index, plan = planned(small(bench, "R50", "float16", 128, "waits"))
    with prepared_probe(
        experiment, index, plan, parent=bench.folder, device=bench.device, threads=threads()
    ) as probe:

        def run() -> ProbeRun:
            return probe.run(probe.arrays, probe.planned_views, seconds=60, unit_videos=64)

        run()  # whatever is made once
        torch.cuda.set_sync_debug_mode("warn")
        places = waits(run)
    batches = 128 * probe.planned_views / bench.scale.batch
    return {"batches": batches, "waits_per_batch": sum(places.values()) / batches, "where": places}


def _objects(cache: Path) -> dict[str, str]:
    """sha256 of every object, by path."""
    commits = read_commits(cache, 1, range(read_manifest(cache).layout.num_units))
    return {
        key: stored.sha256 for commit in commits.values() for key, stored in commit.objects.items()
    }


def equal_caches(bench: Bench) -> Figures:
    """Caches with frames cut on the CPU and on the device: equal to the byte."""
    experiment = small(bench, "R50", "float32", 16, "equal")
    found = []
    with TemporaryDirectory(dir=bench.folder) as folder:
        for place in ("cpu", "device"):
            _, cache = fill(experiment, Path(folder) / place, bench, preprocess=place)
            commits = read_commits(cache, 1, range(read_manifest(cache).layout.num_units))
            found.append(
                {key: one.sha256 for c in commits.values() for key, one in c.objects.items()}
            )
    different = [key for key in found[0] if found[0][key] != found[1][key]]
    if different:
        raise AssertionError(f"{len(different)} of {len(found[0])} objects differ: {different[:3]}")
    return {"objects": len(found[0]), "different": 0}
