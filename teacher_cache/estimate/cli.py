"""`reskd benchmark stage-one`."""

from pathlib import Path
from typing import Literal

import click

from reskd.common.cli.options import (
    device_option,
    experiment_argument,
    json_option,
    override_option,
)
from reskd.teacher_cache.options import (
    cache_path,
    memory_option,
    planned,
    preprocess_option,
    threads_option,
)


@click.command("stage-one")
@experiment_argument
@override_option
@click.option(
    "--synthetic",
    is_flag=True,
    help="Made-up frames in place of its videos, and a teacher of random weights.",
)
@click.option(
    "--cache", "folder", type=cache_path, help="Where the cache will be; its disk is measured."
)
@memory_option
@device_option
@threads_option
@preprocess_option
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="Time for the measurement.",
)
@json_option
def benchmark_stage_one(
    experiment: str,
    overrides: tuple[str, ...],
    synthetic: bool,
    folder: Path | None,
    memory: float,
    device: str,
    threads: int,
    preprocess: Literal["cpu", "device"],
    seconds: float,
    as_json: bool,
) -> None:
    """Measure caching the teacher of EXPERIMENT: each part alone, then all of them together.

    The parts are decode, preprocess, host-to-device, teacher, encode, device-to-host, checksum and
    write. The result names the one that bounds the whole, the share of its speed that the whole
    reaches, how busy the device is, and the processor time per clip. Nothing is left on the disk.
    """
    from tempfile import TemporaryDirectory

    from reskd.common.console import emit
    from reskd.common.devices import choose_device
    from reskd.teacher_cache.estimate.probe import existing_folder
    from reskd.teacher_cache.estimate.stage_one import measure_stage_one, stage_one_text

    with TemporaryDirectory(prefix="reskd-synthetic-") as made_up:
        speed = measure_stage_one(
            *planned(
                experiment,
                overrides,
                split=None,
                memory=memory,
                synthetic=Path(made_up) if synthetic else None,
            ),
            parent=existing_folder(folder),
            device=choose_device(device),
            threads=threads,
            preprocess=preprocess,
            seconds=seconds,
        )
    emit(speed.as_dict(), as_json=as_json, text=stage_one_text(speed))
