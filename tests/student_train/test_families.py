"""Every family of recognizers goes the whole way."""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from reskd.common.cli.main import main
from reskd.common.distill import device_encoding
from reskd.student_train.run.log import read_events
from reskd.teacher_cache.read.reader import CacheReader
from tests.common.models.networks import TINY_SWIN

STEPS = 20
EQUAL = 1e-3
"""Largest relative difference of losses between a cached and a live run."""

FEATURES = {"losses": {"feature_mse": 100}, "targets": {"features": {"grid": "teacher"}}}
LOGIT_MAP = {
    "losses": {"feature_mse": 0, "logit_map_kl": 200, "logit_map_temperature": 2},
    "targets": {"features": None, "logit_map": {"top_k": None}},
}
LOGITS = {"losses": {"feature_mse": 0, "logit_kd": 1}, "targets": {"features": None}}
TWO_MAPS: dict[str, Any] = {
    "img_size": 48,
    "img_scale": (1.0, 1.0),
    "depth": ((1, 1, 0),),
    "embed_dim": (16, 32),
    "num_heads": (2, 2),
    "mlp_ratio": (2, 2, 1),
}
NARROW: dict[str, Any] = {"channels": [16, 24, 24, 48]}  # of test_resnet, which has 96 at the end
ONE_CLIP = {"num_clips": 1, "clip_len": 4, "frame_interval": 2}


def model(recognizer: str, backbone: str = "test_resnet", **args: Any) -> dict[str, Any]:
    return {"recognizer": recognizer, "backbone": backbone, "backbone_args": args, "dropout": 0.2}


@dataclass(frozen=True, slots=True)
class Family:
    """A teacher and a narrower student of one kind, and the published way to distil them."""

    teacher: dict[str, Any]
    student: dict[str, Any]
    clip: dict[str, int]
    recipe: dict[str, Any]
    features: tuple[int, ...]
    """Shape of the student's own map of one clip."""
    map_row: tuple[str, tuple[int, ...]]
    """The array that is distilled from and its row's shape."""
    optimizer: dict[str, Any] = field(default_factory=lambda: {"name": "sgd", "lr": 0.0003})
    """Gentle: at 0.01 the training of such small networks amplifies a rounding about tenfold in
    every step, whoever gives the targets."""


def _resnets(recognizer: str, clip: dict[str, int]) -> Family:
    return Family(
        model(recognizer),
        model(recognizer, **NARROW),
        clip,
        FEATURES,
        features=(4, 48, 1, 1),
        map_row=("features", (4, 96, 2, 2)),
    )


FAMILIES = {
    "tsn": _resnets("tsn", {"num_clips": 4}),
    "tsm": _resnets("tsm", {"num_clips": 4}),
    "slowonly": _resnets("slowonly", ONE_CLIP),
    "swin": Family(
        model("swin3d", "swin3d_t", **{**TINY_SWIN, "embed_dim": 16}),
        model("swin3d", "swin3d_t", **TINY_SWIN),
        ONE_CLIP,
        LOGIT_MAP,
        features=(2, 64, 1, 1),
        map_row=("logit_map", (2, 2, 2, 3)),
        optimizer={"name": "adamw", "lr": 0.0003, "weight_decay": 0.02},
    ),
}
PUBLISHED = list(FAMILIES)
FAMILIES["own heads"] = Family(
    model("tsn", "crossvit_tiny_240", **TWO_MAPS),
    model("tsn", "mobilenetv3_small_050"),
    {"num_clips": 4},
    LOGITS,
    features=(4, 288, 1, 1),
    map_row=("logits", (3,)),
)
WITH_BATCH_NORM = ["tsn", "tsm", "slowonly"]


@dataclass(frozen=True, slots=True)
class Home:
    """Where one family lives: an experiment, its trained teacher and the teacher's cache."""

    family: Family
    experiment: Path
    cache: Path


def reskd(*arguments: object) -> dict[str, Any]:
    """The JSON of a command that must succeed."""
    output = StringIO()
    with redirect_stdout(output):
        assert main([*map(str, arguments), "--json"]) == 0
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


def write_experiment(folder: Path, family: Family) -> Path:
    """An experiment on the videos in `folder`; JSON is YAML."""
    training = {"epochs": 1, "batch_size": 16, "memory_gb": 0.1, "optimizer": family.optimizer}
    tree = {
        "name": "family",
        "data": {"index": "index.jsonl", "decoder": "pyav"},
        "clip": family.clip,
        "views": {"count": 3, "short_side": 48, "scales": [1.0, 0.75], "size": 48},
        "teacher": {"model": family.teacher, "checkpoint": "trained", "training": training},
        "targets": family.recipe["targets"],
        "student": {
            "model": family.student,
            "size": 24,
            "training": training,
            "losses": family.recipe["losses"],
        },
    }
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def homes(
    tiny_experiment_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Home]:
    """Every family with a teacher that was trained for an epoch and cached. Never write here."""
    made = {}
    for name, family in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name) / "home"
        copytree(tiny_experiment_template.parent, folder)
        experiment, cache = write_experiment(folder, family), folder / "cache"
        assert reskd("train-teacher", experiment, "--no-validate")["epochs"] == 1
        assert reskd("cache-teacher", experiment, "--cache", cache)["failed_videos"] == 0
        made[name] = Home(family, experiment, cache)
    return made


def losses_of(home: Home, run: Path, *options: object) -> list[dict[str, float]]:
    """Train for STEPS epochs of one step each; returns the losses of every step."""
    epochs = f"student.training.epochs={STEPS}"
    reskd("train-student", home.experiment, *options, "--run", run, "-o", epochs, "--no-validate")
    terms = ("loss", "cross_entropy", "feature_mse", "logit_map_kl")
    steps = [{key: step[key] for key in terms if key in step} for step in read_events(run)]
    assert len(steps) == STEPS
    return steps


def largest_difference(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> float:
    """Over all steps and terms, relative to `other`."""
    assert [step.keys() for step in one] == [step.keys() for step in other]
    return max(
        abs(step[key] - expected[key]) / abs(expected[key])
        for step, expected in zip(one, other, strict=True)
        for key in expected
    )


def with_student(home: Home, path: Path, student: str, **losses: float) -> Path:
    """The experiment with a student of another family and other losses."""
    tree = json.loads(home.experiment.read_text(encoding="utf-8"))
    tree["data"]["index"] = str(home.experiment.parent / "index.jsonl")
    tree["teacher"]["checkpoint"] = str(home.experiment.parent / "trained")
    tree["student"] |= {"model": FAMILIES[student].student, "losses": losses}
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_family_goes_from_cache_to_accuracy_and_features(
    homes: dict[str, Home], name: str, tmp_path: Path
) -> None:
    home = homes[name]
    verify = ("cache", "verify", home.cache)
    assert reskd(*verify)["ok"]
    assert reskd(*verify, "--level", "semantic", "--rows", 2, "--seed", 0)["ok"]
    arrays = {array.name: array.row_shape for array in CacheReader(home.cache).manifest.arrays}
    array, row_shape = home.family.map_row
    assert arrays[array] == row_shape

    run = tmp_path / "run"
    summary = reskd(
        "train-student", home.experiment, "--cache", home.cache, "--run", run, "--no-validate"
    )
    assert (summary["role"], summary["epochs"]) == ("student", 1)
    for folder, size in ((home.experiment.parent / "trained", 48), (run, 24)):
        measured = reskd("evaluate", folder)
        assert (measured["size"], measured["videos"], measured["failed"]) == (size, 3, 0)

    video = next((home.experiment.parent / "videos").rglob("*.mp4"))
    reskd("extract-features", run, video, tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz", allow_pickle=False) as found:
        assert found["features"].shape == (1, *home.family.features)
        assert found["logits"].shape == (1, 3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_twenty_steps_from_the_cache_have_the_losses_of_a_live_teacher_rounded_or_not(
    homes: dict[str, Home], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = homes[name]
    cached = losses_of(home, tmp_path / "cached", "--cache", home.cache)
    live = losses_of(home, tmp_path / "live", "--teacher", "live")
    assert largest_difference(cached, live) < EQUAL
    # The recipe moves the network, so equal losses are more than an equal beginning.
    assert cached[-1]["loss"] < (1 - 10 * EQUAL) * cached[0]["loss"]

    def in_full(made: Any, array: str, values: Tensor, name: str) -> None:
        made.arrays[array] = values.float()

    monkeypatch.setattr(device_encoding._Made, "float16", in_full)
    exact = losses_of(home, tmp_path / "exact", "--teacher", "live")
    # Here the targets themselves differ, by half a unit of float16, and training amplifies that.
    assert 0 < largest_difference(cached, exact) < 5 * EQUAL


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_family_with_batch_norm_is_cached_in_mode_batch(
    homes: dict[str, Home], name: str, tmp_path: Path
) -> None:
    home, mode = homes[name], ("-o", "teacher.mode=batch")
    cache = tmp_path / "cache"
    reskd("cache-teacher", home.experiment, *mode, "--cache", cache)
    assert reskd("cache", "verify", cache, "--level", "semantic", "--rows", 2, "--seed", 0)["ok"]
    readers = [CacheReader(folder) for folder in (home.cache, cache)]
    one, other = (
        reader.gather("features", [0], [0], reader.empty("features", 1)) for reader in readers
    )
    assert not np.allclose(one.astype(float), other.astype(float), rtol=0.01)
    reskd(
        "train-student",
        "--no-validate",
        home.experiment,
        *mode,
        "--cache",
        cache,
        "--run",
        tmp_path / "run",
    )
    reskd(
        "train-student",
        "--no-validate",
        home.experiment,
        *mode,
        "--teacher",
        "live",
        "--run",
        tmp_path / "live",
    )


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must end with exit code 3."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_family_without_batch_norm_is_refused_in_mode_batch_before_a_row_is_written(
    homes: dict[str, Home], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (homes["swin"].experiment, "-o", "teacher.mode=batch")
    cache, run = tmp_path / "cache", tmp_path / "run"
    for command in (
        ("cache-teacher", *arguments, "--cache", cache),
        ("train-student", *arguments, "--teacher", "live", "--run", run),
    ):
        assert "has no BatchNorm layer" in _refused(capsys, *command)
    assert not cache.exists()
    assert not run.exists()


@pytest.mark.parametrize(("student", "loss"), [("tsn", "feature_mse"), ("swin", "logit_map_kl")])
def test_maps_of_other_time_steps_are_refused_before_anything_runs(
    homes: dict[str, Home],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    student: str,
    loss: str,
) -> None:
    # Swin makes one time step of two frames; a ResNet keeps every frame.
    teacher = next(name for name in ("swin", "tsn") if name != student)
    home = homes[teacher]
    path = tmp_path / "experiment.yaml"
    weights = {"feature_mse": 0, loss: 1}
    experiment = with_student(home, path, student, **weights)
    targets = ("-o", "targets.logit_map={}", "-o", "targets.features={}")
    arguments = (experiment, *targets)
    cache, run = tmp_path / "cache", tmp_path / "run"
    for command in (
        ("cache-teacher", *arguments, "--plan"),
        ("cache-teacher", *arguments, "--cache", cache),
        ("train-student", *arguments, "--teacher", "live", "--run", run),
        ("train-student", *arguments, "--cache", home.cache, "--run", run),
    ):
        message = _refused(capsys, *command)
        assert "time steps" in message
        assert f"student.losses.{loss}" in message
        assert "logit_kd" in message
    assert not cache.exists()
    assert not run.exists()


def test_networks_of_other_time_steps_distil_through_their_class_scores(
    homes: dict[str, Home], tmp_path: Path
) -> None:
    home = homes["slowonly"]
    experiment = with_student(home, tmp_path / "experiment.yaml", "swin", feature_mse=0, logit_kd=1)
    for way in (("--cache", home.cache), ("--teacher", "live")):
        run = tmp_path / way[0].strip("-")
        reskd("train-student", "--no-validate", experiment, *way, "--run", run)
        assert read_events(run)[0]["logit_kd"] > 0


def test_student_of_another_family_learns_through_an_adapter(
    homes: dict[str, Home], tmp_path: Path
) -> None:
    home = homes["slowonly"]
    student = json.dumps(FAMILIES["tsm"].student)
    steps = losses_of(
        home, tmp_path / "run", "--cache", home.cache, "-o", f"student.model={student}"
    )
    assert steps[-1]["feature_mse"] < 0.9 * steps[0]["feature_mse"]
    assert reskd("evaluate", tmp_path / "run")["videos"] == 3
