"""The demo's table and its picture of the training curves."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common.atomic_write import atomic_write
from student_train.run_log import read_events

COLOURS = {
    "teacher": "#444444",
    "distilled": "#0072b2",
    "plain": "#d55e00",
    "plain_long": "#cc79a7",
}
"""Distinguishable with any colour vision (Okabe and Ito)."""

HEADER = ("model", "size", "GMACs", "top-1", "clips/s", "s/epoch", "epochs", "cache bytes")


def demo_text(result: dict[str, Any]) -> str:
    """The result as a table, and where everything is."""
    rows = [HEADER, *(_row(name, result) for name in COLOURS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    cache = result["cache"]
    return "\n".join(
        [
            *lines,
            "",
            f"test videos: {result['teacher']['videos']}, chance: {1 / result['classes']:.3f}",
            f"seconds:     {result['seconds']:.0f}",
            f"cache:       {cache['path']} ({cache['videos']} videos x {cache['views']} views)",
            f"experiment:  {result['experiment']}",
            f"curves:      {result['curves']}",
            f"table:       {result['table']}",
        ]
    )


def _row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    model = result[name]
    spread = f" ± {model['top1_std']:.3f}" if "top1_std" in model else ""
    return (
        name,
        str(model["size"]),
        f"{model['gmacs']:.3f}",
        f"{model['top1']:.3f}{spread}",
        f"{model['clips_per_second']:.0f}",
        "-" if model["seconds_per_epoch"] is None else f"{model['seconds_per_epoch']:.2f}",
        str(model["epochs"]),
        f"{result['cache']['bytes']:,}" if name == "distilled" else "-",
    )


def write_table(path: Path, result: dict[str, Any]) -> Path:
    """The result as JSON."""
    atomic_write(path, json.dumps({**result, "table": str(path)}, indent=1).encode())
    return path


def draw_curves(path: Path, result: dict[str, Any]) -> Path:
    """Loss and training accuracy by epoch, and the accuracy on the test split, as a PNG."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    loss, accuracy, test = figure.subplots(1, 3, width_ratios=(2, 2, 1.2))
    for name, colour in COLOURS.items():
        events = read_events(Path(result[name]["run"]))
        epochs = [event["epoch"] + 1 for event in events]
        loss.plot(
            epochs,
            [event["cross_entropy"] for event in events],
            color=colour,
            label=name,
            marker=".",
        )
        accuracy.plot(epochs, [event["train_top1"] for event in events], color=colour, marker=".")
    loss.set(title="training cross entropy", xlabel="epoch", ylabel="nats", ylim=(0, None))
    loss.legend()
    accuracy.set(title="training top-1", xlabel="epoch", ylim=(0, 1))
    names = list(COLOURS)
    bars = test.bar(names, [result[name]["top1"] for name in names], color=list(COLOURS.values()))
    test.bar_label(bars, fmt="%.2f")
    test.axhline(1 / result["classes"], color="black", linestyle=":", label="chance")
    test.set(title="test top-1", ylim=(0, 1.05))
    test.tick_params(axis="x", rotation=30)
    test.legend()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)
    return path
