"""`reskd dataset check`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reskd.common.cli.options import json_option, override_option
from reskd.common.console import in_lines

if TYPE_CHECKING:
    from reskd.common.dataset.check.checking import CheckReport
    from reskd.common.experiment import ClipSpec
    from reskd.common.video.reader import Decoder

DEFAULT_FRAMES = 16


@click.command("check")
@click.argument("index", metavar="INDEX", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--split", metavar="NAME", help="Check this split alone.")
@click.option(
    "--frames",
    metavar="T",
    type=click.IntRange(1),
    help=f"Frames decoded of each video, spread over it, beside its last.  [default: "
    f"{DEFAULT_FRAMES}]",
)
@click.option(
    "--experiment",
    metavar="EXPERIMENT",
    help="Decode the frames of this experiment's test clip, with its decoder.",
)
@override_option
@click.option(
    "--all",
    "every_frame",
    is_flag=True,
    help="Decode every frame with FFmpeg too, which tells damage that decord hides. Slow.",
)
@click.option(
    "--decoder",
    type=click.Choice(["auto", "decord", "pyav"]),
    help="Who decodes; the experiment's data.decoder should be the same.  [default: auto]",
)
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(1),
    help="Processes that decode at once.  [default: as many as processors]",
)
@click.option(
    "--timeout",
    "seconds",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Longest silence about one video, after which its process is killed.",
)
@json_option
def check(
    index: Path,
    split: str | None,
    frames: int | None,
    experiment: str | None,
    overrides: tuple[str, ...],
    every_frame: bool,
    decoder: "Decoder | None",
    jobs: int | None,
    seconds: float,
    as_json: bool,
) -> int:
    """Decode frames of every video of INDEX, each where a hang or a crash does no harm.

    The verdict on each video is one of: ok; short (fewer frames than the clip needs); missing;
    no_video; truncated (more frames are promised than there are); corrupt; hang; crash. All but ok
    and short are written to INDEX.quarantine.json, and no other command opens them any more.
    Interrupted and called again, it goes on. Exit code 3 when any video is not ok.
    """
    if frames is not None and experiment is not None:
        raise click.UsageError("--frames and --experiment both choose frames; give one of them.")
    if overrides and experiment is None:
        raise click.UsageError("-o changes an experiment; name one with --experiment.")
    from reskd.common.console import emit
    from reskd.common.dataset.check.checking import CheckPlan, check_index
    from reskd.common.prefetch import num_cores

    clip, its_decoder = _clip_and_decoder(experiment, overrides, frames or DEFAULT_FRAMES)
    report = check_index(
        CheckPlan(
            index=index,
            split=split,
            clip=clip,
            decoder=decoder or its_decoder,
            every_frame=every_frame,
            jobs=jobs or num_cores(),
            seconds=seconds,
        )
    )
    emit(_as_json(report), as_json=as_json, text=_text(report))
    return 0 if report.is_sound else 3


def _clip_and_decoder(
    experiment: str | None, overrides: tuple[str, ...], frames: int
) -> "tuple[ClipSpec, Decoder]":
    if experiment is None:
        from reskd.common.experiment import ClipSpec

        return ClipSpec(num_clips=frames), "auto"
    from reskd.common.experiment.load import load_experiment

    resolved = load_experiment(experiment, overrides)
    return resolved.clip, resolved.data.decoder


def _as_json(report: "CheckReport") -> Mapping[str, Any]:
    return {
        "index": str(report.index),
        "quarantine": str(report.quarantine),
        "quarantined": report.num_quarantined,
        "counts": report.counts,
        "videos": [
            {
                "path": str(path),
                "verdict": finding.verdict,
                "frames": finding.frames,
                "message": finding.message,
            }
            for path, finding in report.findings.items()
        ],
    }


def _text(report: "CheckReport") -> str:
    """A line for each video that is not ok, then the counts."""
    lines = [
        f"{finding.verdict:<9}  {path}: {finding.message}"
        for path, finding in report.findings.items()
        if finding.verdict != "ok"
    ]
    counts = ", ".join(f"{number} {verdict}" for verdict, number in report.counts.items())
    lines.append(f"{len(report.findings)} videos: {counts}")
    if report.num_quarantined:
        lines.append(
            f"{report.num_quarantined} in quarantine, which no command opens: {report.quarantine}"
        )
    return in_lines(*lines)
