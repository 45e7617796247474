"""The command; see the package."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any

import click

from reskd.common.devices import choose_device
from reskd.common.storage.atomic_write import atomic_write
from tests.campaigns.gpu.campaign import all_rows
from tests.campaigns.gpu.recipes import SCALES
from tests.campaigns.gpu.rows import Bench, Result, Row, as_dict, run_rows
from tests.campaigns.gpu.table import markdown

MEMORY_DISK = Path("/dev/shm")
ENOUGH_BYTES = 24 * 10**9
"""Free there, to write to memory instead of a disk."""


@click.command()
@click.option("--scale", type=click.Choice(list(SCALES)), default="full", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--minutes", default=8.0, show_default=True, help="What has not begun then is left.")
@click.option("--only", multiple=True, metavar="TEXT", help="Rows whose names contain it.")
@click.option("--out", type=click.Path(path_type=Path), help="Results go here, row by row.")
@click.option("--folder", type=click.Path(path_type=Path), help="For what is written on the way.")
@click.option("--table", type=click.Path(path_type=Path), help="Print such results as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON at the end.")
def main(
    scale: str,
    device: str,
    minutes: float,
    only: Sequence[str],
    out: Path | None,
    folder: Path | None,
    table: Path | None,
    as_json: bool,
) -> None:
    """Find out what a CUDA card has to show, one line per row."""
    if table is not None:
        click.echo(markdown(json.loads(table.read_text(encoding="utf-8"))))
        return
    rows = [row for row in all_rows() if not only or any(text in row.name for text in only)]
    start, results = time.time(), list[Result]()
    with _scratch(folder) as scratch:
        bench = Bench(device=choose_device(device), scale=SCALES[scale], folder=scratch)

        def document() -> str:
            return json.dumps(_document(bench, rows, results, time.time() - start), indent=1)

        for result in run_rows(rows, bench, seconds=60 * minutes):
            results.append(result)
            click.echo(_line(result))
            if out is not None:
                atomic_write(out, f"{document()}\n".encode())
    if as_json:
        click.echo(document())


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    if folder is None and MEMORY_DISK.is_dir() and disk_usage(MEMORY_DISK).free > ENOUGH_BYTES:
        folder = MEMORY_DISK
    with TemporaryDirectory(prefix="reskd-gpu-", dir=folder, ignore_cleanup_errors=True) as name:
        yield Path(name)


def _document(
    bench: Bench, rows: Sequence[Row], results: Sequence[Result], seconds: float
) -> Mapping[str, Any]:
    return {
        "scale": bench.scale.name,
        "device": str(bench.device),
        "seconds": seconds,
        "rows": [as_dict(result) for result in results],
        "missing": [row.name for row in rows[len(results) :]],
    }


def _line(result: Result) -> str:
    """One row for a person."""
    shown = {
        name: f"{value:.4g}" if isinstance(value, float) else value
        for name, value in result.figures.items()
        if not isinstance(value, dict | list)
    }
    text = ", ".join(f"{name} {value}" for name, value in shown.items())
    reason = f" ({result.reason.splitlines()[0]})" if result.reason else ""
    return f"{result.seconds:6.1f} s  {result.row}: {result.status}{reason}  {text}"


if __name__ == "__main__":
    main()
