"""Benchmarks still run: tiny sizes, and nothing about time is asserted."""

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.fill.cluster import RayOptions, reached
from reskd.teacher_cache.format.layout import Layout
from reskd.teacher_cache.noise import write_noise_cache
from tests.benchmarks import (
    decode_once,
    decoder_choice,
    device_preprocess,
    epoch_overhead,
    fill_pipeline,
    frame_access,
    kept_clips,
    prefetch,
    ray_workers,
    read_order,
    recipes,
    step_kinds,
    store_read,
    store_write,
    train_step,
    workers,
)
from tests.benchmarks.timing import interleaved, ratio
from tests.video_files import numbered_frames, write_video

BENCHMARKS = sorted(
    path.stem
    for path in (Path(__file__).parent / "benchmarks").glob("*.py")
    if path.stem not in {"__init__", "timing"}
)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_command_with_json(name: str) -> None:
    module = import_module(f"tests.benchmarks.{name}")
    assert f"python -m tests.benchmarks.{name} --json" in (module.__doc__ or "")
    assert isinstance(module.main, Command)
    shown = CliRunner().invoke(module.main, ["--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.output


def test_interleaved_begins_each_round_with_another_contender() -> None:
    calls: list[tuple[str, int]] = []
    drawn = iter(range(100))
    seconds = interleaved(
        {"a": lambda work: calls.append(("a", work)), "b": lambda work: calls.append(("b", work))},
        lambda: next(drawn),
        rounds=3,
        warmups=1,
    )
    assert calls == [(name, turn) for turn, name in enumerate("abbaabba")]
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_of_the_rounds_not_of_the_sums() -> None:
    # The machine was ten times as slow in the last round, for both alike.
    seconds = {"a": [2.0, 2.0, 60.0], "b": [1.0, 1.0, 10.0]}
    assert ratio(seconds, "a", "b") == 2.0


def _require_numbers(result: Mapping[str, float]) -> None:
    for name, value in result.items():
        assert math.isfinite(value), name
        assert value >= 0, name


def test_store_read_with_a_tiny_store_compares_equal_bytes(tmp_path: Path) -> None:
    layout = Layout(num_views=2, block_views=2, num_videos=10, unit_videos=4)
    case = store_read.Case(row_bytes=64, layout=layout, batch=8, gathers=1, rounds=2)
    result = store_read.compare(tmp_path, case)
    assert set(store_read.RATIOS) <= set(result)
    _require_numbers(result)
    sizes = dict.fromkeys(store_read.CASES, result)
    assert "ours_crc_over_pread" in store_read.as_table({**sizes, "load": [0.0, 0.0]})


def test_store_write_with_tiny_units_gives_every_figure(tmp_path: Path) -> None:
    result = store_write.compare(tmp_path, units=2, unit_videos=1, rounds=1)
    assert {"ours_over_plain", "write_unit_over_plain", "stall_share"} <= set(result)
    _require_numbers(result)


def test_store_write_peak_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert store_write.peak_units(tmp_path / "peak", units=2, unit_videos=1) >= 0


def test_decode_once_with_a_short_video_gives_equal_clips(tmp_path: Path) -> None:
    result = decode_once.compare(tmp_path, num_videos=1, num_frames=9, view_counts=(2,), rounds=1)
    _require_numbers(result["2"])


def test_decoder_choice_with_a_short_video_compares_all_contenders(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(9))
    result = decoder_choice.compare(path, num_frames=9, shares=[0.5], rounds=1)
    _require_numbers(result["0.500"])


def test_device_preprocess_with_a_short_video_compares_both_ways(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered_frames(9))
    clip = device_preprocess.CLIPS["tsn"]
    result = device_preprocess.compare(path, clip=clip, count=2, rounds=1)
    assert result["saved_share"] < 1
    assert result["decode_ms"] > 0


@pytest.mark.slow  # workers import torch
def test_workers_with_a_tiny_teacher_are_timed_and_foretold(tmp_path: Path) -> None:
    result = workers.compare(
        tmp_path, backbone="test_resnet", size=128, videos=4, views=2, rounds=1, seconds=0.1
    )
    _require_numbers({name: result[name] for name in ("gain", "foretold_1", "foretold_2")})
    assert not (tmp_path / "caches").exists()


def test_frame_access_with_a_short_video_reads_the_same_frames(tmp_path: Path) -> None:
    result = frame_access.compare(tmp_path, num_videos=1, num_frames=9, clips=1, rounds=1)
    assert set(frame_access.RATIOS) <= set(result)
    _require_numbers(result)


def test_epoch_overhead_with_a_tiny_teacher_runs_in_all_ways(tmp_path: Path) -> None:
    file = epoch_overhead.make_experiment(
        tmp_path, teacher="test_resnet", num_videos=4, num_frames=9
    )
    trials = epoch_overhead.compare(
        file, student="test_resnet", ways=epoch_overhead.WAYS, epochs=2, rounds=1
    )
    _require_numbers({way: trials.ratio(way, "labels") for way in epoch_overhead.WAYS})


def test_prefetch_with_a_tiny_store_runs_through_every_source(tmp_path: Path) -> None:
    file = epoch_overhead.make_experiment(
        tmp_path, teacher="test_resnet", num_videos=4, num_frames=9
    )
    write_noise_cache(load_experiment(str(file)), tmp_path / "cache")
    student = prefetch.Student("test_resnet")
    for cold in (False, True):
        store = prefetch.from_store(tmp_path / "cache", student, epochs=1, rounds=1, cold=cold)
        assert list(store) == ["2", "3", "4"]
        _require_numbers(store)


def test_kept_clips_of_short_videos_are_obtained_in_every_way(tmp_path: Path) -> None:
    videos = kept_clips.make_videos(tmp_path, num_videos=2, num_frames=9)
    _require_numbers(kept_clips.compare(videos, tmp_path, rounds=1))
    assert (tmp_path / "index.jsonl.clips" / "train-112px").is_dir()


def test_read_order_reads_a_tiny_store_in_both_orders(tmp_path: Path) -> None:
    _require_numbers(read_order.compare(tmp_path / "c", row_bytes=8, num_videos=100, rounds=1))


def test_recipes_with_a_tiny_network_goes_through_every_command(tmp_path: Path) -> None:
    big = recipes.FAMILIES["tsn"]
    tiny = replace(big, teacher={"backbone": "test_resnet"}, student={"backbone": "test_resnet"})
    result = recipes.run_family(tmp_path / "tsn", tiny, recipes.make_videos(tmp_path), steps=2)
    _require_numbers({**result["seconds"], **result["top1"], **result["difference"]})
    assert result["losses"]["first"].keys() == {"loss", "cross_entropy", "feature_mse"}
    assert [len(curve) for curve in result["curves"].values()] == [2, 2]
    assert "difference live" in recipes.as_table({"tsn": result, "load": [0.0, 0.0]})


def test_step_kinds_are_compared_with_a_plain_step() -> None:
    sizes = {"clips": 4, "frames": 1, "size": 32, "group": 2}
    part = step_kinds.measure("test_resnet", **sizes, rounds=1, compiled=False)
    _require_numbers({kind: part[kind] for kind in ("groups", "parts", "load")})


def test_train_step_compares_the_loop_with_a_bare_one(capsys: pytest.CaptureFixture[str]) -> None:
    part = train_step.measure("test_resnet", clips=2, frames=1, size=32, steps=2, rounds=2)
    assert len(part["overheads"]) == 2
    assert all(overhead > -1 for overhead in part["overheads"])
    assert "training: 4/4 clips" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_workers_with_a_tiny_teacher_are_compared_with_local_ones(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with reached(RayOptions()):
        result = ray_workers.compare(
            tmp_path, backbone="test_resnet", size=32, videos=2, views=1, rounds=1
        )
    assert {name: len(found) for name, found in result.pop("seconds").items()} == {
        "local": 1,
        "ray": 1,
    }
    _require_numbers(result)


def test_fill_pipeline_with_a_tiny_teacher_gives_every_figure(tmp_path: Path) -> None:
    result = fill_pipeline.compare(
        tmp_path, backbones=["test_resnet"], num_videos=2, num_frames=1, rounds=1
    )
    assert list(result) == ["cost_test_resnet"]
    busy = fill_pipeline.decoders(items=20, seconds=0.001)
    assert list(busy) == ["busy_0.5", "drained_0.5", "busy_0.9", "drained_0.9"]
    _require_numbers({**result, **busy})
