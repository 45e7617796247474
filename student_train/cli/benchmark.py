"""`reskd benchmark stage-two`."""

from pathlib import Path

import click

from reskd.common.cli.options import (
    device_option,
    experiment_argument,
    folder_path,
    json_option,
    override_option,
)


@click.command("stage-two")
@experiment_argument
@override_option
@click.option("--cache", type=folder_path, help="Teacher cache to learn from.")
@click.option(
    "--synthetic", is_flag=True, help="A temporary cache of noise in place of a teacher's."
)
@device_option
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    help="Steps of the training loop; at least 41 are taken.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Time for each part.",
)
@json_option
def benchmark_stage_two(
    experiment: str,
    overrides: tuple[str, ...],
    cache: Path | None,
    synthetic: bool,
    device: str,
    steps: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure training the student of EXPERIMENT from a cache: each part, then the whole loop.

    The parts are reading rows, copying them to the device, and the student's step on a batch that
    lies there. The result names the one that bounds the loop, and the share of the step's own speed
    that it reaches. Nothing is kept.
    """
    if (cache is None) != synthetic:
        raise click.UsageError("Name the cache with --cache DIR, or make one up with --synthetic.")
    from tempfile import TemporaryDirectory

    from reskd.common.console import emit
    from reskd.common.devices import choose_device
    from reskd.common.experiment.load import load_experiment
    from reskd.student_train.train.stage_two import (
        LEAST_STEPS,
        measure_stage_two,
        stage_two_text,
    )

    resolved = load_experiment(experiment, overrides)
    with TemporaryDirectory(prefix="reskd-synthetic-") as made_up:
        if cache is None:
            from reskd.common.synthetic import synthetic_experiment
            from reskd.teacher_cache.noise import write_noise_cache

            clips = resolved.required_student().training.batch_size
            resolved = synthetic_experiment(
                resolved, Path(made_up), videos=clips * max(steps, LEAST_STEPS), views=1
            )
            cache = Path(made_up) / "cache"
            write_noise_cache(resolved, cache)
        speed = measure_stage_two(
            resolved, cache, device=choose_device(device), steps=steps, seconds=seconds
        )
    emit(speed.as_dict(), as_json=as_json, text=stage_two_text(speed))
