"""Options of the commands of this room, and what is made of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from reskd.common.cli.options import (
    combined,
    device_option,
    max_bad_option,
    trust_code_option,
)
from reskd.common.prefetch import num_cores
from reskd.teacher_cache.format.layout import MAX_IN_A_ROW, MEMORY_GB

if TYPE_CHECKING:
    from reskd.common.dataset.index import VideoIndex
    from reskd.common.experiment import Experiment
    from reskd.teacher_cache.fill.job import RunOptions
    from reskd.teacher_cache.fill.slices import Slice
    from reskd.teacher_cache.format.plan import CachePlan
    from reskd.teacher_cache.verify.recompute import Draw

cache_path = click.Path(path_type=Path, file_okay=False)
cache_argument = click.argument("folder", metavar="CACHE", type=cache_path)
memory_option = click.option(
    "--memory",
    type=click.FloatRange(0, min_open=True),
    default=MEMORY_GB,
    show_default=True,
    help="GB that units may take in memory; decides how many videos a unit has.",
)
split_option = click.option(
    "--split",
    help="Split of the index; default: data.train_split. Any other serves agreement metrics only.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    default=num_cores,
    show_default="one per core",
    help="Threads that decode.",
)
force_option = click.option("--force", is_flag=True, help="Start even if the disk looks too small.")
experiment_option = combined(
    click.option(
        "--experiment",
        help="Experiment of the cache; default: the one recorded beside it.",
    ),
    trust_code_option,
)
level_option = click.option(
    "--level",
    type=click.Choice(["structure", "bytes", "semantic"]),
    default="bytes",
    show_default=True,
    help="structure: records, sizes, names; bytes: every byte too; semantic: and the teacher "
    "runs again on some random rows, to be compared.",
)
_share = click.FloatRange(0, 1, min_open=True, max_open=True)


draw_options = combined(
    click.option("--rows", type=click.IntRange(1), help="Default: as many as needed."),
    click.option(
        "--confidence",
        type=_share,
        default=0.95,
        show_default=True,
        help="Of the statement that fewer rows than --defect-rate are wrong.",
    ),
    click.option(
        "--defect-rate",
        type=_share,
        default=0.001,
        show_default=True,
        help="Share of wrong rows that the statement excludes; sets the default of --rows.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), help="Of the draw; default: a random one, printed."
    ),
)
"""Which rows level semantic compares."""
preprocess_option = click.option(
    "--preprocess",
    type=click.Choice(["cpu", "device"]),
    default="cpu",
    show_default=True,
    help="Who crops and resizes, with equal bytes: the threads that decode, or the teacher's "
    "device. `device` is for a GPU that waits for decoding.",
)


def _slice(context: click.Context, option: click.Parameter, text: str | None) -> "Slice | None":
    from reskd.teacher_cache.fill.slices import Slice

    try:
        return None if text is None else Slice.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


slice_option = click.option(
    "--slice",
    "part",
    metavar="N/COUNT",
    callback=_slice,
    help="Fill every COUNT-th unit from the N-th on: one of COUNT runs on one shared folder.",
)
devices_option = click.option(
    "--devices",
    help="Instead of --device: a worker on each of several, cuda:0,cuda:1; `cuda` is all of this "
    "machine, cpu:2 two workers on the CPU. Threads are divided among them.",
)
in_a_row_option = click.option(
    "--max-bad-in-row",
    "max_in_a_row",
    metavar="N",
    type=click.IntRange(1),
    default=MAX_IN_A_ROW,
    show_default=True,
    help="Unreadable videos one after the other at which to stop: something else is wrong then.",
)
accept_source_option = click.option(
    "--accept-source",
    is_flag=True,
    help="Where the source of your own teacher has changed: compare 32 rows with it, and go on.",
)
engine_options = combined(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Who runs the teacher: this machine, or all nodes of a Ray cluster, with a worker for "
        "each GPU. There --device is that of the nodes (auto, cuda, cpu), and --threads the CPUs "
        "of a worker; by default they share their node's.",
    ),
    click.option(
        "--ray-address",
        help="host:port of the cluster's head, or auto for one of this machine; default: "
        "RAY_ADDRESS, else a Ray on this machine that ends with the command.",
    ),
)
run_options = combined(
    max_bad_option,
    in_a_row_option,
    threads_option,
    device_option,
    devices_option,
    force_option,
    accept_source_option,
)
"""The options of every command that runs the teacher to write."""


def planned(
    experiment: str,
    overrides: tuple[str, ...],
    *,
    split: str | None,
    memory: float,
    synthetic: Path | None = None,
) -> "tuple[Experiment, VideoIndex, CachePlan]":
    """The experiment named, its index, and the plan of its cache.

    With `synthetic` it is on made-up videos, which are put into that folder.
    """
    from reskd.common.dataset.index import read_index
    from reskd.common.experiment.load import load_experiment
    from reskd.teacher_cache.format.plan import plan_cache

    resolved = load_experiment(experiment, overrides)
    if synthetic is not None:
        from reskd.common.synthetic import synthetic_experiment

        resolved = synthetic_experiment(resolved, synthetic)
    index = read_index(resolved.data.index)
    plan = plan_cache(resolved, index, memory_bytes=int(memory * 1e9), split=split)
    return resolved, index, plan


def experiment_of(folder: Path, experiment: str | None, overrides: tuple[str, ...]) -> "Experiment":
    """The experiment named, else the one recorded beside the cache."""
    from reskd.common.experiment.load import load_experiment
    from reskd.teacher_cache.format.manifest import read_manifest
    from reskd.teacher_cache.run_log import recorded_experiment

    read_manifest(folder)  # without a cache there is nothing to record
    if experiment is not None:
        return load_experiment(experiment, overrides)
    if overrides:
        raise click.UsageError("-o changes an experiment: name it with --experiment.")
    return recorded_experiment(folder.absolute())


def draw_of(*, rows: int | None, confidence: float, defect_rate: float, seed: int | None) -> "Draw":
    """The draw that the options describe."""
    from secrets import randbelow

    from reskd.teacher_cache.verify.recompute import Draw

    return Draw(
        rows=rows,
        confidence=confidence,
        defect_rate=defect_rate,
        seed=randbelow(2**32) if seed is None else seed,
    )


def options_of(
    experiment: "Experiment",
    folder: Path,
    *,
    accept_source: bool,
    max_bad: float | None,
    max_in_a_row: int,
    threads: int,
    device: str,
    devices: str | None,
    force: bool,
    preprocess: Literal["cpu", "device"] = "cpu",
    part: "Slice | None" = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
) -> "RunOptions":
    """How stage one runs; where it is asked for, a changed source is accepted before."""
    from reskd.common.devices import choose_device, choose_devices
    from reskd.teacher_cache.fill.cluster import ray_options
    from reskd.teacher_cache.fill.job import RunOptions

    if devices is not None and device != "auto":
        raise click.UsageError("--device and --devices: name one of the two.")
    ray = None
    if engine == "ray":
        if devices is not None:
            raise click.UsageError("--devices are this machine's; --engine ray finds its own.")
        ray = ray_options(ray_address, device, threads if _is_given("threads") else None)
        device = "cpu" if ray.device == "cpu" else "auto"  # of this process, which checks
    elif ray_address is not None:
        raise click.UsageError("--ray-address goes with --engine ray.")
    workers = () if devices is None else choose_devices(devices)
    options = RunOptions(
        max_bad=experiment.data.max_bad if max_bad is None else max_bad,
        max_in_a_row=max_in_a_row,
        threads=threads,
        device=workers[0] if workers else choose_device(device),
        devices=workers,
        force=force,
        preprocess=preprocess,
        part=part,
        ray=ray,
    )
    if accept_source:
        from reskd.teacher_cache.verify.accept_source import accept_source as accept

        accept(experiment, folder, options)
    return options


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT
