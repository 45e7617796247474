"""`reskd doctor`: is this machine ready?"""

from pathlib import Path

import click


@click.command()
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default="."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def doctor(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Look whether this machine is ready, and at the disk of FOLDER; exit code 3 on a problem.

    Example: reskd doctor /data/caches
    """
    from dataclasses import asdict
    from itertools import chain

    from reskd.common.console import emit
    from reskd.common.doctor.decoders import decoders
    from reskd.common.doctor.machine import machine
    from reskd.common.doctor.packages import packages
    from reskd.common.doctor.symptom import as_text

    symptoms = list(chain(packages(), decoders(), machine(folder)))
    problems = sum(symptom.fix is not None for symptom in symptoms)
    result = {"problems": problems, "symptoms": [asdict(symptom) for symptom in symptoms]}
    emit(result, as_json=as_json, text=as_text(symptoms))
    ctx.exit(3 if problems else 0)
