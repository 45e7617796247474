"""The published recipes' families, each through the whole pipeline at a reduced size.

    python -m tests.benchmarks.recipes --json

TSN, TSM and SlowOnly distil feature maps (weight 100), Video Swin its class scores at every
location (KL, weight 200 at temperature 2). Networks, frames and videos are small: generated videos
of 80 px, the teacher at 64 px, the student at 32. Every command goes through the command line's
entry. Per family:

- `seconds` of each command, `cache_bytes`, the student's losses at its first and its last step, and
  the accuracy of both (9 classes, chance 0.111; a few steps teach little).
- `difference`: how far the losses of two runs of 20 steps are apart at most, relative. `live`: the
  student from the cache against `--teacher live`, same seed and views. `threads`: the student from
  the cache against itself on another number of threads: other roundings, and nothing else.
- `curves`: the same step by step.

Every epoch is one step, since a run's log has a line per epoch. Training amplifies roundings, more
so at higher learning rates: `live` is to be read beside `threads`. The first step has equal weights
in all runs and so compares the teachers' targets alone.
"""

import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

from reskd.common.cli.main import main as reskd_main
from reskd.common.console import emit, in_lines, say
from reskd.student_train.demo.videos import DEMO_CLASSES, write_demo_videos
from reskd.student_train.run.log import read_events
from tests.benchmarks.timing import load

SEED = 100
STEPS = 20
TEACHER_EPOCHS = 2
CLIPS_PER_CLASS = {"train": 2, "test": 2}
FRAMES = 4
TERMS = ("loss", "cross_entropy", "feature_mse", "logit_map_kl")
FEATURES: dict[str, Any] = {
    "losses": {"cross_entropy": 1, "feature_mse": 100},
    "targets": {"features": {"dtype": "float16", "grid": "teacher"}},
}
LOGIT_MAP: dict[str, Any] = {
    "losses": {"cross_entropy": 1, "feature_mse": 0, "logit_map_kl": 200},
    "targets": {"features": None, "logit_map": {"dtype": "float16"}},
}
SGD = {"name": "sgd", "lr": 0.0003}
ADAMW = {"name": "adamw", "lr": 0.001, "weight_decay": 0.02}
SEGMENTS = {"num_clips": FRAMES}
ONE_PIECE = {"num_clips": 1, "clip_len": FRAMES, "frame_interval": 2}

Losses = list[dict[str, float]]
"""Of every step, by term."""


@dataclass(frozen=True, slots=True)
class Family:
    """Teacher, student, and what the published recipe distils by."""

    teacher: dict[str, Any]
    student: dict[str, Any]
    clip: dict[str, int]
    recipe: dict[str, Any]
    optimizer: dict[str, Any]


def _model(recognizer: str, backbone: str, **args: Any) -> dict[str, Any]:
    return {"recognizer": recognizer, "backbone": backbone, "backbone_args": args}


def _resnets(recognizer: str, teacher: str, student: str, clip: dict[str, int]) -> Family:
    return Family(_model(recognizer, teacher), _model(recognizer, student), clip, FEATURES, SGD)


def _swin(width: int) -> dict[str, Any]:
    heads = [width // 16 * factor for factor in (1, 2, 4, 8)]
    return _model("swin3d", "swin3d_t", embed_dim=width, depths=[2, 2, 2, 2], num_heads=heads)


FAMILIES = {
    "tsn": _resnets("tsn", "resnet18", "test_resnet", SEGMENTS),
    "tsm": _resnets("tsm", "resnet18", "test_resnet", SEGMENTS),
    "slowonly": _resnets("slowonly", "resnet18", "test_resnet", ONE_PIECE),
    "swin": Family(_swin(48), _swin(32), ONE_PIECE, LOGIT_MAP, ADAMW),
}
"""The student has other channels than the teacher, so its maps go through a 1x1 convolution."""


class Commands:
    """Runs commands as a user would, and keeps the seconds each has taken."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, *arguments: object) -> dict[str, Any]:
        """The JSON that a command prints; `stage` is its name among the seconds."""
        output, start = io.StringIO(), time.perf_counter()
        with redirect_stdout(output):
            code = reskd_main([*map(str, arguments), "--json"])
        self.seconds[stage] = time.perf_counter() - start
        if code:
            raise RuntimeError(f"{stage} ended with exit code {code}")
        result: dict[str, Any] = json.loads(output.getvalue())
        return result


def make_videos(folder: Path) -> Path:
    """Write the videos and their index; returns the index."""
    write_demo_videos(folder / "videos", seed=SEED, clips_per_class=CLIPS_PER_CLASS)
    index = folder / "index.jsonl"
    Commands()("import", "dataset", "import", "folder", folder / "videos", "--out", index)
    return index


def write_experiment(folder: Path, family: Family, index: Path, *, steps: int) -> Path:
    """The family's experiment; every epoch of the student is one step."""
    clips = CLIPS_PER_CLASS["train"] * len(DEMO_CLASSES)
    shared = {"optimizer": family.optimizer, "memory_gb": 0.2}
    tree = {
        "name": folder.name,
        "data": {"index": str(index), "val_split": "test"},
        "clip": family.clip,
        "views": {"count": 2, "short_side": 80, "scales": [0.9, 0.8], "size": 64},
        "teacher": {
            "model": family.teacher,
            "checkpoint": "teacher",
            "training": {**shared, "epochs": TEACHER_EPOCHS, "batch_size": clips // 2},
        },
        "targets": family.recipe["targets"],
        "student": {
            "model": family.student,
            "size": 32,
            "training": {**shared, "epochs": steps, "batch_size": clips},
            "losses": family.recipe["losses"],
        },
        "evaluation": {"crop_fraction": 0.8},
    }
    folder.mkdir()
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(tree, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def run_family(folder: Path, family: Family, index: Path, *, steps: int = STEPS) -> dict[str, Any]:
    """All commands of one family, in a folder that is made."""
    experiment, cache = write_experiment(folder, family, index, steps=steps), folder / "cache"
    runs = {name: folder / name for name in ("cached", "live", "threads")}
    command = Commands()
    student = ("train-student", experiment, "--no-validate", "--run")
    from_cache = ("--cache", cache)

    command("train_teacher", "train-teacher", experiment, "--no-validate")
    command("cache_teacher", "cache-teacher", experiment, *from_cache)
    command("verify", "cache", "verify", cache)
    command("train_student", *student, runs["cached"], *from_cache)
    command("train_student_live", *student, runs["live"], "--teacher", "live")
    top1 = {
        "teacher": command("evaluate_teacher", "evaluate", folder / "teacher")["top1"],
        "student": command("evaluate_student", "evaluate", runs["cached"])["top1"],
    }
    with _other_threads():
        Commands()("threads", *student, runs["threads"], *from_cache)

    losses = {name: losses_of(run) for name, run in runs.items()}
    curves = {name: differences(losses[name], losses["cached"]) for name in ("live", "threads")}
    return {
        "seconds": command.seconds,
        "cache_bytes": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()),
        "losses": {"first": losses["cached"][0], "last": losses["cached"][-1]},
        "top1": top1,
        "difference": {name: max(curve) for name, curve in curves.items()},
        "curves": curves,
    }


def losses_of(run: Path) -> Losses:
    """The losses in a run's log."""
    return [{term: step[term] for term in TERMS if term in step} for step in read_events(run)]


def differences(one: Losses, other: Losses) -> list[float]:
    """The largest relative difference of any term, step by step."""
    return [
        max(abs(step[term] - expected[term]) / abs(expected[term]) for term in expected)
        for step, expected in zip(one, other, strict=True)
    ]


@contextmanager
def _other_threads() -> Iterator[None]:
    """One thread where there were several, two where there was one: sums in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def as_table(result: dict[str, Any]) -> str:
    """The figures for a person: a column per family."""
    families = [name for name in FAMILIES if name in result]
    rows = [("", families)]
    for stage in result[families[0]]["seconds"]:
        shown = [f"{result[name]['seconds'][stage]:.1f} s" for name in families]
        rows.append((stage, shown))
    rows.append(("cache", [f"{result[name]['cache_bytes'] / 1e6:.2f} MB" for name in families]))
    for step in ("first", "last"):
        for term in TERMS:
            found = [result[name]["losses"][step].get(term) for name in families]
            shown = ["" if value is None else f"{value:.4f}" for value in found]
            rows.append((f"{step} {term}", shown))
    for group, form in (("top1", ".3f"), ("difference", ".1e")):
        for key in result[families[0]][group]:
            shown = [f"{result[name][group][key]:{form}}" for name in families]
            rows.append((f"{group} {key}", shown))
    return in_lines(*(_row(title, cells) for title, cells in rows))


def _row(title: str, cells: Sequence[str]) -> str:
    return f"{title:<22}" + "".join(f"{cell:>12}" for cell in cells)


@click.command()
@click.option("--json", "as_json", is_flag=True)
def main(as_json: bool) -> None:
    """Run every family from its teacher's training to its student's accuracy."""
    before = load()
    result: dict[str, Any] = {}
    with TemporaryDirectory(prefix="bench-recipes-") as name:
        index = make_videos(Path(name))
        for family in FAMILIES:
            say("")
            say(family)
            result[family] = run_family(Path(name) / family, FAMILIES[family], index)
    result["load"] = [before, load()]
    emit(result, as_json=as_json, text=as_table(result))


if __name__ == "__main__":
    main()
