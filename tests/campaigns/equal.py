"""What must stay equal when code only moves: bytes, losses, weights, help texts and error texts.

    python -m tests.campaigns.equal record before.json
    python -m tests.campaigns.equal record after.json
    python -m tests.campaigns.equal compare before.json after.json

`record` makes four tiny caches (TSN and Video Swin, features as float16 and as int8), trains a
student on each for 20 steps on one thread, and keeps: sha256 of every file of the caches, every
loss of every step, digests of the final weights, `--help` of every command, and the fixed parts of
every text that the product raises. `compare` lists what differs and ends with 1 if anything does.
Both records must come from one machine: other processors and libraries round otherwise.
"""

import ast
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
import yaml

from reskd.common.cli.main import main as reskd_main
from reskd.common.cli.main import reskd
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint import read_checkpoint_info
from reskd.student_train.run.log import read_events
from tests import REPOSITORY
from tests.common.models.networks import TINY_SWIN
from tests.teacher_cache.handling import tree_of
from tests.tiny_experiment import make_tiny_experiment, make_tiny_videos, save_random_teacher

STEPS = 20
LOSSLESS = {"codec": "libx264rgb", "pix_fmt": "rgb24", "qp": "0"}
"""Where x264 may lose something it decides otherwise now and then, on equal input too."""
ROOMS = ("common", "teacher_cache", "student_train")
SWIN = {"recognizer": "swin3d", "backbone": "swin3d_t", "backbone_args": TINY_SWIN}
ONE_CLIP = {"num_clips": 1, "clip_len": 4, "frame_interval": 2}
TERMS = ("loss", "cross_entropy", "feature_mse", "logit_map_kl")


def experiment_of(base: Path, family: str, dtype: str) -> Path:
    """One of the four, beside the experiment it is made from, with its teacher."""
    tree = yaml.safe_load(base.read_text(encoding="utf-8"))
    tree["targets"] = {"features": {"dtype": dtype}}
    # The batch holds all clips, so that an epoch is a step.
    tree["student"]["training"] |= {"epochs": STEPS, "batch_size": 16}
    if family == "swin":
        tree["clip"] = ONE_CLIP
        tree["teacher"] |= {"model": SWIN, "checkpoint": "swin-teacher"}
        tree["student"]["model"] = SWIN
        tree["student"]["losses"] |= {"logit_map_kl": 20}
        tree["targets"]["logit_map"] = {}
    path = base.with_name(f"{family}-{dtype}.yaml")
    path.write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    save_random_teacher(load_experiment(str(path)), seed=1)
    return path


def run(*arguments: object) -> None:
    """Run a command that must succeed, without its output."""
    with redirect_stdout(io.StringIO()):
        code = reskd_main([str(argument) for argument in arguments])
    if code:
        raise RuntimeError(f"reskd {arguments[0]} ended with exit code {code}")


def numbers(folder: Path) -> dict[str, Any]:
    """Digests and losses of the four caches and students."""
    experiment = make_tiny_experiment(folder)
    make_tiny_videos(folder / "videos", encoder=LOSSLESS)
    found: dict[str, Any] = {}
    for family in ("tsn", "swin"):
        for dtype in ("float16", "int8"):
            name = f"{family} {dtype}"
            path = experiment_of(experiment, family, dtype)
            cache, student = folder / f"{name} cache", folder / f"{name} student"
            run("cache-teacher", path, "--cache", cache, "--threads", 1)
            run("train-student", path, "--cache", cache, "--run", student)
            found[name] = {
                "cache": {key: sha256(data).hexdigest() for key, data in tree_of(cache).items()},
                "losses": [
                    {term: repr(event[term]) for term in TERMS if term in event}
                    for event in read_events(student)
                    if "loss" in event
                ],
                "weights": read_checkpoint_info(student).weights_sha256,
            }
            if len(found[name]["losses"]) != STEPS:
                raise RuntimeError(f"{name}: the log holds {found[name]['losses']}")
    return found


def helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """`--help` of a command and of all below it."""
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None:
                yield from helps(found, f"{name} {below}")


def raised_texts(repository: Path) -> list[str]:
    """The fixed parts of every text in a raise statement, wherever it stands."""
    texts = []
    for room in ROOMS:
        for path in (repository / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise):
                    parts = [
                        part.value
                        for part in ast.walk(node)
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    ]
                    texts.append(" … ".join(parts))
    return sorted(filter(None, texts))


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Every place in which two records differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from differences(before.get(key), after.get(key), f"{where}/{key}")
    elif where == "/errors":
        yield from (f"- {text}" for text in sorted(set(before) - set(after)))
        yield from (f"+ {text}" for text in sorted(set(after) - set(before)))
    elif before != after and isinstance(before, list) and isinstance(after, list):
        changed = (
            step for step, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]
        )
        step = next(changed, min(len(before), len(after)))
        yield f"{where}: {len(before)} and {len(after)} steps, other from step {step} on"
    elif before != after:
        yield f"{where}:\n- {before}\n+ {after}"


@click.group()
def main() -> None:
    """Prove that a move moved nothing."""


@main.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def record(out: Path) -> None:
    """Write all that must stay equal to OUT."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        found = numbers(Path(folder))
    found["help"] = dict(helps(reskd, "reskd"))
    found["errors"] = raised_texts(REPOSITORY)
    out.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")


@main.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True))
@click.argument("after", type=click.Path(path_type=Path, exists=True))
def compare(before: Path, after: Path) -> None:
    """List the differences of two records; exit code 1 if there are any."""
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    found = list(differences(one, other))
    click.echo("\n".join(found) if found else "equal")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
