"""A student of several teachers: caches, losses and figures of each, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.distill.encoding import decode_features
from reskd.common.errors import CacheError, ExperimentError, ReskdError, StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.common.models.checkpoint_record import WEIGHTS_FILE
from reskd.student_train.data.joined_readers import JoinedReaders, MoreCache
from reskd.student_train.run.log import read_events
from reskd.student_train.train import runs, teacher_terms
from reskd.student_train.train.reproduce import reproduce
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import RunOptions
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import ALONE, CPU, TinyCache, save_random_teacher

OTHER_TEACHER = ("teacher.model.backbone=test_efficientnet", "teacher.model.backbone_args={}")
"""Maps of 3x3, like the student's, and of other channels."""
ON_SCORES = "{cross_entropy: 0, feature_mse: 0, logit_kd: 2}"


def _cached(experiment_file: Path, cache: Path, *overrides: str, seed: int = 2) -> Path:
    """The cache of another teacher, or of other views or videos."""
    checkpoint = f"teacher.checkpoint={cache.parent / f'{cache.name}-teacher'}"
    experiment = load_experiment(str(experiment_file), [checkpoint, *overrides])
    save_random_teacher(experiment, seed=seed)
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    options = RunOptions(max_bad=0.0, threads=1, device=CPU, force=False)
    run_cache_teacher(experiment, plan, cache, options)
    return cache


def _train(cache: TinyCache, run: Path, others: list[Path], *overrides: str, **how: Any) -> None:
    settings: dict[str, Any] = {
        "teacher": "cached",
        "distill": True,
        "processes": ALONE,
        "max_bad": 0.0,
        "fresh": False,
        "allow_incomplete": False,
        "validate": False,
    }
    runs.train_student(
        load_experiment(str(cache.experiment), overrides),
        run,
        cache=cache.cache,
        more_caches=others,
        **{**settings, **how},
    )


def test_two_teachers_have_losses_and_figures_of_their_own(
    tiny_cache: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _cached(tiny_cache.experiment, tmp_path / "other", *OTHER_TEACHER)
    more = "{cross_entropy: 0, feature_mse: 0, feature_mse_normalised: 3, logit_kd: 2}"
    given = ["train-student", str(tiny_cache.experiment), "--run", str(tmp_path / "run")]
    given += ["--cache", str(tiny_cache.cache), "--cache", str(other), "--no-validate"]
    given += ["-o", f"student.more_losses=[{more}]", "-o", "student.training.epochs=2"]
    assert main([*given, "--json"]) == 0, capsys.readouterr().err
    for event in read_events(tmp_path / "run"):
        expected = (
            event["cross_entropy"]
            + 10 * event["feature_mse"]
            + 3 * event["2/feature_mse_normalised"]
            + 2 * event["2/logit_kd"]
        )
        assert event["loss"] == pytest.approx(expected, rel=1e-5)
        assert min(event["2/logit_kd"], event["2/feature_mse_normalised"]) > 0
    [start] = read_events(tmp_path / "run", "start")
    assert start["more_caches"] == [str(other)]
    assert start["command"].count("--cache") == 2


def test_second_teacher_alone_teaches_what_it_would_as_the_first(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_cache.cache, tmp_path / "copy")
    once = "student.training.epochs=1"
    losses = "feature_mse: 7, dist_intra: 2, logit_kd: 1"
    _train(tiny_cache, tmp_path / "one", [], f"student.losses={{{losses}}}", once)
    more = f"student.more_losses=[{{cross_entropy: 0, {losses}}}]"
    _train(tiny_cache, tmp_path / "two", [copy], "student.losses={feature_mse: 0}", more, once)
    [one], [two] = (read_events(tmp_path / run) for run in ("one", "two"))
    for name in ("feature_mse", "dist_intra", "logit_kd"):
        assert two[f"2/{name}"] == one[name]
    found, expected = (load_file(tmp_path / run / WEIGHTS_FILE) for run in ("two", "one"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_step_of_several_teachers_that_failed_is_computed_again(
    tiny_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = _cached(tiny_cache.experiment, tmp_path / "other", *OTHER_TEACHER)
    more = "student.more_losses=[{cross_entropy: 0, feature_mse: 5, logit_kd: 2}]"
    calls: list[int] = []

    def spoiled(targets: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:  # of the second teacher, in the second step
            targets["features"].fill_(float("inf"))
        return decode_features(targets)

    with monkeypatch.context() as patch:
        patch.setattr(teacher_terms, "decode_features", spoiled)
        with pytest.raises(StoppedShortError, match="2/feature_mse nan"):
            _train(tiny_cache, tmp_path / "run", [other], more)
    found = reproduce(tmp_path / "run" / "failure")
    assert found["not_finite"] == ["targets.2/features"]
    assert "2/feature_mse nan, 2/logit_kd " in found["loss"]


def test_rows_of_the_second_cache_are_those_of_the_same_videos(tiny_cache: TinyCache) -> None:
    with CacheReader(tiny_cache.cache) as reader:
        turned = {row: len(reader.usable_videos) - 1 - row for row in reader.usable_videos}
        cache = MoreCache(
            number=2, reader=reader, arrays=reader.manifest.arrays, rows=turned, columns=None
        )
        joined, videos = JoinedReaders(reader, [cache]), [0, 3, 1]
        found = joined.gather("2/logits", [1] * 3, videos, joined.empty("2/logits", 3))
        rows = [turned[video] for video in videos]
        expected = reader.gather("logits", [1] * 3, rows, reader.empty("logits", 3))
        assert np.array_equal(found, expected)
        own = joined.gather("logits", [1] * 3, videos, joined.empty("logits", 3))
        assert not np.array_equal(own, found)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("views.seed=5",), r"First difference: views.seed: the cache has 5, .*cache has 0"),
        (("views.flip_probability=0",), r"First difference: views.flip_probability: "),
        (("clip.num_clips=4",), r"First difference: clip.num_clips: the cache has 4"),
        (("views.count=2",), r"has 2 views of every video, the experiment asks for 3"),
    ],
)
def test_cache_of_other_views_is_refused_by_the_field(
    tiny_cache: TinyCache, tmp_path: Path, overrides: tuple[str, ...], expected: str
) -> None:
    other = _cached(tiny_cache.experiment, tmp_path / "other", *overrides)
    with pytest.raises(CacheError, match=expected):
        _train(tiny_cache, tmp_path / "run", [other], f"student.more_losses=[{ON_SCORES}]")


def test_cache_that_lacks_videos_is_refused_by_one_of_them(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    path = tiny_cache.experiment.parent / "index.jsonl"
    index = read_index(path)
    gone = index.split("train")[2]
    write_index(path, replace(index, videos=tuple(v for v in index.videos if v is not gone)))
    other = _cached(tiny_cache.experiment, tmp_path / "other")
    write_index(path, index)
    more = f"student.more_losses=[{ON_SCORES}]"
    with pytest.raises(CacheError, match=f"videos: it has no rows of 1 of them, such as {gone.id}"):
        _train(tiny_cache, tmp_path / "run", [other], more)
    once = "student.training.epochs=1"
    _train(tiny_cache, tmp_path / "run", [other], more, once, allow_incomplete=True)
    assert read_events(tmp_path / "run")[0]["clips"] == len(index.split("train")) - 1


@pytest.mark.parametrize(
    ("overrides", "how", "expected"),
    [
        ((), {}, "There are 2 caches and losses for 1 teachers"),
        ((f"student.more_losses=[{ON_SCORES}]",), {"distill": False}, "--no-distill is for one"),
        ((f"student.more_losses=[{ON_SCORES}]",), {"teacher": "live"}, "--teacher live is for one"),
        (
            ("student.more_losses=[{cross_entropy: 0, feature_mse: 0, logit_map_kl: 1}]",),
            {},
            r"holds nothing that student.more_losses\[0\].logit_map_kl could compare with",
        ),
        (("student.more_losses=[{logit_kd: 1}]",), {}, "set cross_entropy to 0 in each"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny_cache: TinyCache,
    tmp_path: Path,
    overrides: tuple[str, ...],
    how: dict[str, Any],
    expected: str,
) -> None:
    with pytest.raises(ReskdError, match=expected):
        _train(tiny_cache, tmp_path / "run", [tiny_cache.cache], *overrides, **how)


def test_losses_of_a_teacher_without_a_cache_are_refused(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    more = f"student.more_losses=[{ON_SCORES}]"
    with pytest.raises(ExperimentError, match="There are 1 caches and losses for 2 teachers"):
        _train(tiny_cache, tmp_path / "run", [], more)
    with pytest.raises(ExperimentError, match="each from a --cache of its own"):
        _train(tiny_cache, tmp_path / "run", [], more, teacher="live")


def test_map_of_other_places_than_the_student_has_is_refused(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    other = _cached(tiny_cache.experiment, tmp_path / "other", "student.size=48")
    more = "student.more_losses=[{cross_entropy: 0, feature_mse: 1}]"
    stored = CacheReader(other).manifest
    assert stored.teacher_grid == CacheReader(tiny_cache.cache).manifest.teacher_grid
    # Stored on the teacher's own grid it fits students of any size.
    _train(tiny_cache, tmp_path / "fits", [other], more, "student.training.epochs=1")
    smaller = _cached(tiny_cache.experiment, tmp_path / "smaller", "student.size=12")
    with pytest.raises(CacheError, match="has features of 3 time steps and shape"):
        _train(tiny_cache, tmp_path / "run", [smaller], more)
