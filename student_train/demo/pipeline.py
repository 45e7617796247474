"""`reskd demo`: the whole pipeline on generated videos, through the commands a user would type.

Every command is printed before it runs, so the output doubles as a tutorial. Started again in the
same folder, it goes on where it stopped.
"""

import io
import json
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.resources import files
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import yaml
from matplotlib.figure import Figure

from reskd.common.cli.main import reskd
from reskd.common.console import aligned, in_lines, progress, say
from reskd.common.parsing.json_text import parse_json, read_json
from reskd.common.parsing.yaml_text import parse_yaml
from reskd.common.storage.atomic_write import atomic_write
from reskd.common.storage.folder_lock import locked
from reskd.common.storage.partial import clear_partials_in
from reskd.student_train.demo.videos import DEMO_CLASSES, DEMO_CLIPS_PER_CLASS, write_demo_videos
from reskd.student_train.run.log import read_events

COLOURS = {
    "teacher": "#444444",
    "distilled": "#0072b2",
    "plain": "#d55e00",
    "plain_long": "#cc79a7",
}
"""Of the models; distinguishable with any colour vision (Okabe and Ito)."""
MODELS = tuple(COLOURS)
LONG_FACTOR = 3
"""How many times the epochs the plain student gets in its second chance."""


def run_demo(out: Path, *, seeds: Sequence[int]) -> dict[str, Any]:
    """Run the pipeline once per seed; data, views and initialisation all follow the seed.

    Args:
        out: Folder to write; one folder per seed inside.
        seeds: Which.

    Returns:
        For one seed its result (`run_seed`); for several the same of the first, with accuracies
        replaced by means, `top1_std` beside them, and all results under `seeds`.

    Raises:
        StoppedShortError: If another process runs it there.
    """
    out.mkdir(parents=True, exist_ok=True)
    advice = "Wait for it, or name another folder with --out."
    with locked(out, task=f"running the demo in {out}", advice=advice):
        clear_partials_in(out)
        return _run_seeds(out, seeds)


def _run_seeds(out: Path, seeds: Sequence[int]) -> dict[str, Any]:
    start = time.monotonic()
    results = [run_seed(out / f"seed-{seed}", seed) for seed in seeds]
    merged = dict(results[0])
    if len(results) > 1:
        for model in MODELS:
            top1 = [result[model]["top1"] for result in results]
            merged[model] = {**merged[model], "top1": mean(top1), "top1_std": pstdev(top1)}
        merged["seeds"] = results
    merged["seconds"] = time.monotonic() - start
    curves, table = out / "curves.png", out / "result.json"
    _draw_curves(curves, merged)
    merged |= {"curves": str(curves), "table": str(table)}
    atomic_write(table, json.dumps(merged, indent=1).encode())
    return merged


def run_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Make the data, then teacher, cache, three students and their evaluations.

    Returns:
        {"teacher" | "distilled" | "plain" | "plain_long": {"top1", "top5", "size", "gmacs",
        "clips_per_second", "seconds_per_epoch", "run"}, "cache": {"path", "bytes", "views",
        "videos", "units"}, "experiment", "seconds"}; paths are absolute.
    """
    start = time.monotonic()
    say(f"# labelled H.264 videos for seed {seed}: {folder / 'videos'}")
    _write_videos(folder / "videos", seed)
    index, experiment, cache = (
        folder / name for name in ("index.jsonl", "experiment.yaml", "cache")
    )
    tree = write_experiment(experiment, seed)
    long_epochs = LONG_FACTOR * tree["student"]["training"]["epochs"]
    runs = {model: folder / model for model in MODELS}

    run_command("dataset", "import", "folder", folder / "videos", "--out", index)
    # Each network is measured below, so not while it trains as well.
    trained = {"teacher": run_command("train-teacher", experiment, "--no-validate")}
    stored = run_command("cache-teacher", experiment, "--cache", cache)
    run_command("cache", "verify", cache)
    student = ("train-student", experiment, "--cache", cache, "--no-validate", "--run")
    longer = f"student.training.epochs={long_epochs}"
    trained["distilled"] = run_command(*student, runs["distilled"])
    trained["plain"] = run_command(*student, runs["plain"], "--no-distill")
    trained["plain_long"] = run_command(*student, runs["plain_long"], "--no-distill", "-o", longer)
    measured = {model: run_command("evaluate", runs[model]) for model in MODELS}
    kept = ("top1", "top5", "size", "gmacs", "clips_per_second", "videos", "run")
    result: dict[str, Any] = {
        model: {
            **{key: measured[model][key] for key in kept},
            "epochs": trained[model]["epochs"],
            "seconds_per_epoch": trained[model]["seconds_per_epoch"],
        }
        for model in MODELS
    }
    return result | {
        "cache": {
            "path": stored["cache"],
            "bytes": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()),
            **{key: stored[key] for key in ("views", "videos", "units")},
        },
        "experiment": str(experiment),
        "seed": seed,
        "classes": len(read_json(runs["teacher"] / "labels.json")),
        "seconds": time.monotonic() - start,
    }


def write_experiment(path: Path, seed: int) -> dict[str, Any]:
    """Write the installed configs/demo.yaml with every seed set; returns what was written."""
    source = files("reskd.configs").joinpath("demo.yaml").read_text(encoding="utf-8")
    tree: dict[str, Any] = parse_yaml(source)
    tree["views"]["seed"] = seed
    for role in ("teacher", "student"):
        tree[role]["training"]["seed"] = seed
    header = "# Written by `reskd demo` from its configs/demo.yaml, which explains the choices.\n"
    text = header + yaml.safe_dump(tree, sort_keys=False)
    atomic_write(path, text.encode())
    return tree


def _write_videos(folder: Path, seed: int) -> None:
    total = len(DEMO_CLASSES) * sum(DEMO_CLIPS_PER_CLASS.values())
    with progress("writing videos", total, unit="videos") as advance:
        write_demo_videos(
            folder,
            seed=seed,
            clips_per_class=DEMO_CLIPS_PER_CLASS,
            progress=lambda done, of: advance(),
        )


def run_command(*arguments: str | Path) -> dict[str, Any]:
    """Print a command of reskd, run it in this process, return what it prints with --json."""
    shown = shlex.join(["reskd", *(_short(argument) for argument in arguments)])
    say("")
    say(f"$ {shown}")
    output = io.StringIO()
    with redirect_stdout(output):
        reskd.main([*map(str, arguments), "--json"], prog_name="reskd", standalone_mode=False)
    result: dict[str, Any] = parse_json(output.getvalue())
    return result


def _short(argument: str | Path) -> str:
    """A path as one would type it here."""
    if isinstance(argument, Path):
        relative = os.path.relpath(argument)
        return min(str(argument), relative, key=len)
    return argument


def demo_text(result: dict[str, Any]) -> str:
    """The result as a table, and where everything is."""
    header = ("model", "size", "GMACs", "top-1", "clips/s", "s/epoch", "epochs", "cache bytes")
    cache = result["cache"]
    return in_lines(
        *[
            *aligned([header, *(_row(model, result) for model in MODELS)]),
            "",
            f"test videos: {result['teacher']['videos']}, chance: {1 / result['classes']:.3f}",
            f"seconds:     {result['seconds']:.0f}",
            f"cache:       {cache['path']} ({cache['videos']} videos x {cache['views']} views)",
            f"experiment:  {result['experiment']}",
            f"curves:      {result['curves']}",
            f"table:       {result['table']}",
        ]
    )


def _row(model: str, result: dict[str, Any]) -> tuple[str, ...]:
    figures = result[model]
    spread = f" ± {figures['top1_std']:.3f}" if "top1_std" in figures else ""
    seconds = figures["seconds_per_epoch"]
    return (
        model,
        str(figures["size"]),
        f"{figures['gmacs']:.3f}",
        f"{figures['top1']:.3f}{spread}",
        f"{figures['clips_per_second']:.0f}",
        "-" if seconds is None else f"{seconds:.2f}",
        str(figures["epochs"]),
        f"{result['cache']['bytes']:,}" if model == "distilled" else "-",
    )


def _draw_curves(path: Path, result: dict[str, Any]) -> None:
    """Loss and training accuracy by epoch, and the accuracy on the test split, as a PNG."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    loss, accuracy, test = figure.subplots(1, 3, width_ratios=(2, 2, 1.2))
    for model, colour in COLOURS.items():
        events = read_events(Path(result[model]["run"]))
        epochs = [event["epoch"] + 1 for event in events]
        look = {"color": colour, "label": model, "marker": "."}
        loss.plot(epochs, [event["cross_entropy"] for event in events], **look)
        accuracy.plot(epochs, [event["train_top1"] for event in events], **look)
    loss.set(title="training cross entropy", xlabel="epoch", ylabel="nats", ylim=(0, None))
    loss.legend()
    accuracy.set(title="training top-1", xlabel="epoch", ylim=(0, 1))
    bars = test.bar(MODELS, [result[model]["top1"] for model in MODELS], color=COLOURS.values())
    test.bar_label(bars, fmt="%.2f")
    test.axhline(1 / result["classes"], color="black", linestyle=":", label="chance")
    test.set(title="test top-1", ylim=(0, 1.05))
    test.tick_params(axis="x", rotation=30)
    test.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    atomic_write(path, picture.getvalue())
