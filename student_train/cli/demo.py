"""`reskd demo`."""

from pathlib import Path

import click

from reskd.common.cli.options import folder_path, json_option


@click.command("demo")
@click.option(
    "--out", type=folder_path, default="reskd-demo", show_default=True, help="Folder to write."
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Repetitions.")
@json_option
def demo(out: Path, seeds: int, as_json: bool) -> None:
    """Run the whole pipeline on generated videos: minutes on a CPU, every command printed."""
    from reskd.common.console import emit
    from reskd.student_train.demo.pipeline import demo_text, run_demo

    result = run_demo(out.absolute(), seeds=range(seeds))
    emit(result, as_json=as_json, text=demo_text(result))
