"""A teacher in the step says what the store says."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.distill.arrays import TargetPlan
from reskd.common.distill.teacher import Teacher, TeacherOutput
from reskd.common.errors import CacheError, DataError, ExperimentError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.student_train.data.decoded_frames import DecodedFrames
from reskd.student_train.run.log import read_events
from reskd.student_train.train import runs
from reskd.student_train.train.live_teacher import LiveTeacher
from reskd.teacher_cache.format.manifest import read_manifest
from reskd.teacher_cache.read.reader import CacheReader
from tests.teacher_cache.handling import edit_identity
from tests.tiny_experiment import (
    ALONE,
    CPU,
    TinyCache,
    cut_off,
    make_tiny_cache,
    save_random_teacher,
)

ONE_STEP = ("student.training.epochs=1", "student.training.batch_size=16")  # of nine clips
MAP_LOSS = ("student.losses.logit_map_kl=1",)
TIMES = {"seconds", "clips_per_second", "data_wait_share"}

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(tiny_experiment: Path, tmp_path: Path) -> Train:
    """Train the tiny student in a folder of that name; returns its first epoch's figures."""

    def start(
        run: str,
        *overrides: str,
        cache: Path | None = None,
        teacher: Literal["cached", "live"] = "live",
        distill: bool = True,
        max_bad: float = 0.0,
    ) -> dict[str, Any]:
        runs.train_student(
            load_experiment(str(tiny_experiment), overrides),
            tmp_path / run,
            cache=cache,
            teacher=teacher,
            distill=distill,
            processes=ALONE,
            validate=False,
            max_bad=max_bad,
            fresh=False,
            allow_incomplete=False,
        )
        return read_events(tmp_path / run)[0]

    return start


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def _assert_same_weights(one: Path, other: Path) -> None:
    weights, expected = _weights(one), _weights(other)
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []


@pytest.mark.parametrize(
    ("targets", "losses"),
    [
        pytest.param("{}", ("student.losses.logit_kd=1",), id="float16"),
        pytest.param("{features: {dtype: int8}}", (), id="int8"),
        pytest.param("{features: {grid: teacher}}", (), id="teacher-grid"),
        pytest.param("{frames: null}", (), id="replayed"),
        pytest.param("{logit_map: {}}", MAP_LOSS, id="logit-map"),
        pytest.param("{logit_map: {top_k: 2}}", MAP_LOSS, id="top-k"),
    ],
)
def test_first_step_with_live_teacher_has_the_losses_of_the_cached_one(
    tiny_experiment: Path, tmp_path: Path, train: Train, targets: str, losses: tuple[str, ...]
) -> None:
    tiny_experiment.write_text(tiny_experiment.read_text() + f"targets: {targets}\n")
    cache = make_tiny_cache(tiny_experiment, tmp_path / "cache").cache
    cached = train("cached", *ONE_STEP, *losses, cache=cache, teacher="cached")
    live = train("live", *ONE_STEP, *losses)
    assert live.keys() == cached.keys()
    compared = live.keys() - TIMES - {"event"}
    assert {"loss", "cross_entropy", "feature_mse", "train_top1"} <= compared
    for name in compared:
        assert live[name] == pytest.approx(cached[name], rel=1e-3), name


def test_live_targets_of_stored_views_are_the_stored_rows(tiny_cache: TinyCache) -> None:
    experiment = load_experiment(str(tiny_cache.experiment))
    index, reader = read_index(experiment.data.index), CacheReader(tiny_cache.cache)
    names = ("features", "feature_residual", "logits")
    live = LiveTeacher(experiment, index, names=names, device=CPU)
    videos, view = [2, 7, 4], 1
    source = DecodedFrames(
        experiment,
        index,
        index.numbered("train"),
        size=24,
        replay=None,
        num_views=3,
        keep_clips=True,
        workers=0,
        memory_bytes=0,
        pinned=False,
        max_bad=0,
    )
    ((_, _, clips),) = source.read([videos], view)
    assert clips is not None
    targets = live.targets(clips)
    assert set(targets) == set(names)
    for name, target in targets.items():
        stored = reader.gather(name, [view] * 3, videos, reader.empty(name, 3))
        expected = torch.from_numpy(stored)
        # One step of float16 apart at most: batches of another size round otherwise.
        torch.testing.assert_close(target, expected, rtol=2**-10, atol=1e-5)
        assert target.dtype == expected.dtype


def test_live_teacher_computes_in_the_precision_of_the_cache(
    tiny_experiment: Path,
) -> None:
    found = {}
    for precision in ("bfloat16", "float32"):
        chosen = load_experiment(str(tiny_experiment), [f"teacher.precision={precision}"])
        index = read_index(chosen.data.index)
        live = LiveTeacher(chosen, index, names=["logits"], device=CPU)
        rng = torch.Generator().manual_seed(0)
        clips = torch.randint(0, 256, (2, 3, 3, 48, 48), dtype=torch.uint8, generator=rng)
        found[precision] = live.targets(clips)["logits"].float()
    assert torch.equal(found["bfloat16"], found["bfloat16"].bfloat16().float())
    apart = (found["bfloat16"] - found["float32"]).norm() / found["float32"].norm()
    assert 1e-3 < apart < 2e-2


def test_live_teacher_computes_only_what_the_losses_need(tiny_experiment: Path) -> None:
    experiment = load_experiment(str(tiny_experiment))
    index = read_index(experiment.data.index)
    plan: TargetPlan = LiveTeacher(experiment, index, names=["logits"], device=CPU).plan
    assert [array.name for array in plan.arrays] == ["logits"]


@pytest.mark.parametrize(("mode", "groups"), [("eval", [9]), ("batch", [8, 1])])
def test_live_teacher_takes_groups_only_where_they_matter(
    tiny_experiment: Path,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    groups: list[int],
) -> None:
    seen = []
    predict = Teacher.predict

    def watched(self: Teacher, clips_BT3HW: Tensor) -> TeacherOutput:
        seen.append(len(clips_BT3HW))
        return predict(self, clips_BT3HW)

    monkeypatch.setattr(Teacher, "predict", watched)
    train("run", *ONE_STEP, f"teacher.mode={mode}")
    assert seen == groups


def test_live_teacher_in_mode_batch_has_other_outputs_than_in_mode_eval(train: Train) -> None:
    by_mode = {mode: train(mode, *ONE_STEP, f"teacher.mode={mode}") for mode in ("eval", "batch")}
    assert by_mode["eval"]["cross_entropy"] == by_mode["batch"]["cross_entropy"]
    assert by_mode["eval"]["feature_mse"] != by_mode["batch"]["feature_mse"]


def test_live_run_with_cache_replays_its_views_to_the_same_weights(
    train: Train, tiny_cache: TinyCache, tmp_path: Path
) -> None:
    # Four epochs of three views; targets are computed anew, so those of the cache may be gone.
    for array in read_manifest(tiny_cache.cache).arrays:
        if array.name != "views":
            rmtree(tiny_cache.cache / array.name / "c")
    train("drawn", "student.training.epochs=4")
    train("replayed", "student.training.epochs=4", cache=tiny_cache.cache)
    _assert_same_weights(tmp_path / "replayed", tmp_path / "drawn")


def test_live_run_beside_the_cache_of_another_experiment_is_refused(
    train: Train, tiny_cache: TinyCache
) -> None:
    with pytest.raises(CacheError, match=r"First difference: views\.seed"):
        train("run", "views.seed=1", cache=tiny_cache.cache)


def test_live_run_beside_a_cache_of_another_decoder_is_refused(
    train: Train, tiny_cache: TinyCache
) -> None:
    edit_identity(tiny_cache.cache, "decoder", "av", value="0.1")
    with pytest.raises(CacheError, match=r"First difference: decoder\.av"):
        train("run", cache=tiny_cache.cache)


@pytest.mark.parametrize("first", ["cached", "live"])
def test_live_and_cached_runs_never_go_on_with_each_other(
    train: Train, tiny_cache: TinyCache, first: Literal["cached", "live"]
) -> None:
    second: Literal["cached", "live"] = "live" if first == "cached" else "cached"
    train("run", *ONE_STEP, cache=tiny_cache.cache, teacher=first)
    with pytest.raises(DataError, match="another recipe"):
        train("run", *ONE_STEP, cache=tiny_cache.cache, teacher=second)
    train("run", *ONE_STEP, cache=tiny_cache.cache, teacher=first)


def test_live_run_with_another_teacher_is_another_recipe(
    train: Train, tiny_experiment: Path
) -> None:
    train("run", *ONE_STEP)
    save_random_teacher(load_experiment(str(tiny_experiment)), seed=2)
    with pytest.raises(DataError, match="another recipe"):
        train("run", *ONE_STEP)


def test_live_run_stopped_and_called_again_ends_as_if_never_stopped(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("whole")
    targets, calls = LiveTeacher.targets, []

    def stop_at_fourth(self: LiveTeacher, clips_BT3HW: Tensor) -> dict[str, Tensor]:
        calls.append(len(clips_BT3HW))
        if len(calls) == 4:  # two steps make an epoch
            raise KeyboardInterrupt
        return targets(self, clips_BT3HW)

    monkeypatch.setattr(LiveTeacher, "targets", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        train("run")
    assert [event["epoch"] for event in read_events(tmp_path / "run")] == [0]
    train("run")
    _assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_live_run_leaves_unreadable_videos_out(
    train: Train, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = read_index(tiny_experiment.parent / "index.jsonl")
    cut_off(index.path_of(index.split("train")[4]))
    assert train("run", *ONE_STEP, max_bad=0.2)["clips"] == 8
    assert index.split("train")[4].id in capsys.readouterr().err


def test_live_run_without_a_loss_that_compares_is_refused(train: Train) -> None:
    with pytest.raises(ExperimentError, match="for nothing"):
        train("run", "student.losses.feature_mse=0")


def test_live_run_without_teacher_names_its_folder(train: Train, tiny_experiment: Path) -> None:
    rmtree(tiny_experiment.parent / "teacher")
    with pytest.raises(DataError, match=r"teacher is not a checkpoint directory"):
        train("run")


def test_live_run_with_a_teacher_of_other_classes_is_refused(
    train: Train, tiny_experiment: Path
) -> None:
    path = tiny_experiment.parent / "index.jsonl"
    index = read_index(path)
    write_index(path, replace(index, classes=index.classes[::-1]))
    with pytest.raises(DataError, match="was trained for 3 classes"):
        train("run")


def test_live_command_trains_without_cache_and_no_distill_beside_it_is_a_usage_error(
    tiny_experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train-student", str(tiny_experiment), "--teacher", "live", "--json"]
    arguments += ["--run", str(tmp_path / "run"), "-o", ONE_STEP[0]]
    assert main([*arguments, "--no-distill"]) == 2
    assert "choose one of the two" in capsys.readouterr().err
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 1
    assert read_events(tmp_path / "run")[0]["feature_mse"] > 0


@pytest.mark.parametrize("teacher", ["cached", "live"])
def test_plan_of_live_run_states_what_the_teacher_adds(
    tiny_experiment: Path, capsys: pytest.CaptureFixture[str], teacher: str
) -> None:
    arguments = ["train-student", str(tiny_experiment), "--teacher", teacher, "--plan"]
    assert main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    if teacher == "cached":
        assert not {"teacher_gmacs", "teacher_gmacs_per_clip"} & plan.keys()
        assert "live" not in text
    else:
        # The same network on frames of twice the side; one pass where the student has three.
        assert plan["teacher_gmacs_per_clip"] > 3 * plan["gmacs_per_clip"]
        assert plan["teacher_gmacs"] == pytest.approx(plan["teacher_gmacs_per_clip"] * 27)
        times = 1 + plan["teacher_gmacs"] / plan["gmacs"]
        assert f"{times:.1f} times the student alone" in text
